/**
 * The first rows of a page: as many as hold at most `maxBytes` together, and one at
 * least, so that whoever goes on behind them gets on.
 */
export function rowsWithin<Row extends { readonly size: number }>(
  rows: readonly Row[],
  maxBytes: number,
): readonly Row[] {
  let bytes = 0;
  let taken = 0;
  for (const { size } of rows) {
    bytes += size;
    if (taken > 0 && bytes > maxBytes) break;
    taken++;
  }
  return rows.slice(0, taken);
}
