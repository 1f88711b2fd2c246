/** The page sizes of lists. */

import { defaultPageSize, maxPageSize } from "../limits.ts";
import { invalidField } from "../refusal.ts";

/**
 * Items of one page; 0 asks for the default.
 *
 * @throws RefusedError with the limit
 */
export function parsePageSize(pageSize: number): number {
  if (pageSize > maxPageSize) {
    throw invalidField("page_size", `must be at most ${maxPageSize}`, maxPageSize);
  }
  return pageSize === 0 ? defaultPageSize : pageSize;
}
