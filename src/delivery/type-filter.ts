/**
 * Which types of events a subscriber wants. A record names the types in it, so
 * one that holds none of them is passed over without being decoded; facts about
 * runs name none, and always pass.
 */

import { maxFilterTypes, maxTypeBytes } from "../limits.ts";
import { invalidField } from "../refusal.ts";

/** How much of a record is wanted. */
export type Share = "all" | "some" | "none";

/** Exact types and prefixes. */
export class TypeFilter {
  readonly #exact: ReadonlySet<string>;
  readonly #prefixes: readonly string[];

  private constructor(exact: ReadonlySet<string>, prefixes: readonly string[]) {
    this.#exact = exact;
    this.#prefixes = prefixes;
  }

  /**
   * Checks the patterns of a filter; undefined where there are none, which means
   * every type.
   *
   * @throws RefusedError with the field at fault
   */
  static parse(field: string, patterns: readonly string[]): TypeFilter | undefined {
    if (patterns.length === 0) return undefined;
    if (patterns.length > maxFilterTypes) {
      throw invalidField(field, `has more than ${maxFilterTypes} types`, maxFilterTypes);
    }
    const exact = new Set<string>();
    const prefixes: string[] = [];
    for (const [index, pattern] of patterns.entries()) {
      const at = `${field}[${index}]`;
      if (pattern === "") throw invalidField(at, "is empty");
      if (Buffer.byteLength(pattern) > maxTypeBytes + 1) {
        throw invalidField(at, `is longer than the ${maxTypeBytes} bytes of a type`, maxTypeBytes);
      }
      const star = pattern.indexOf("*");
      if (star === -1) exact.add(pattern);
      else if (star === pattern.length - 1) prefixes.push(pattern.slice(0, star));
      else throw invalidField(at, 'may have "*" only at its end');
    }
    return new TypeFilter(exact, prefixes);
  }

  /** How many patterns there are. */
  get count(): number {
    return this.#exact.size + this.#prefixes.length;
  }

  /** Whether an event of this type is wanted. */
  wants(type: string): boolean {
    return this.#exact.has(type) || this.#prefixes.some((prefix) => type.startsWith(prefix));
  }

  /** How much is wanted of a record with these types, one a line. */
  shareOf(types: string): Share {
    if (types === "") return "all";
    let wanted = 0;
    let unwanted = 0;
    for (const type of types.split("\n")) {
      if (this.wants(type)) wanted++;
      else unwanted++;
      if (wanted > 0 && unwanted > 0) return "some";
    }
    return wanted > 0 ? "all" : "none";
  }
}
