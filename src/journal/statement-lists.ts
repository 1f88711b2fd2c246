/**
 * Lists in statements. A statement is prepared by its text, so lists of every
 * length would make as many texts; these come in lengths that are powers of two.
 */

/** Items of one list, at most: rows of 24 columns stay below SQLite's 32,766 parameters. */
const maxItems = 512;

/** A list for `in` or `not in`: the last item again and again, up to a power of two. */
export function padded<T>(items: readonly T[]): readonly T[] {
  const last = items.at(-1);
  if (last === undefined) return items;
  const length = 2 ** Math.ceil(Math.log2(items.length));
  return [...items, ...new Array<T>(length - items.length).fill(last)];
}

/** Parts of a list that are not too long for one statement each. */
export function parts<T>(items: readonly T[]): T[][] {
  const out: T[][] = [];
  for (let i = 0; i < items.length; i += maxItems) out.push(items.slice(i, i + maxItems));
  return out;
}

/** Parts of a list for `values`, of which none may stand twice: their lengths are powers of two. */
export function powers<T>(items: readonly T[]): T[][] {
  const out: T[][] = [];
  for (let i = 0; i < items.length; ) {
    const length = Math.min(maxItems, 2 ** Math.floor(Math.log2(items.length - i)));
    out.push(items.slice(i, i + length));
    i += length;
  }
  return out;
}
