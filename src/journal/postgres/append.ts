/**
 * A commit as one statement of PostgreSQL, which is a transaction of its own: one
 * round trip, and nothing that stays open while its client is away.
 *
 * The lock of the namespace is taken by the first part; the others write nothing
 * where that finds that somebody else has changed the namespace in between. In
 * READ COMMITTED it looks again at the newest row once it has waited for it
 * (https://www.postgresql.org/docs/current/transaction-iso.html).
 *
 * It sets itself how long it waits to be durable: a setting that is local to the
 * transaction holds until its commit is over.
 *
 * An append may be sent before the one that it builds on has been answered. If
 * that one does not happen, and somebody else's commit has the version instead,
 * the append_id still tells that it is not the one.
 */
import { CompiledQuery } from "kysely";
import type { Append } from "../journal.ts";
import { totalColumns } from "../namespaces.ts";
import { recordColumns } from "../records.ts";
import { changingRunColumns, runColumns } from "../runs.ts";
import type { RecordsTable, RunsTable } from "../schema.ts";
import { sendWarnings, waitForStandby } from "./settings.ts";

/** Runs, and records, that one statement writes at most: more take their time anyway. */
export const maxAppendRows = 64;

type Column = keyof RunsTable | keyof RecordsTable;

/** A parameter outside of a plain insert has a type only where it is given one. */
const integers: ReadonlySet<Column> = new Set<Column>([
  ...(["namespace_id", "depth", "state", "cancel_descendants", "node_key"] as const),
  ...(["event_count", "size", "checksum"] as const),
]);
const texts: ReadonlySet<Column> = new Set<Column>([
  ...(["run_id", "conversation_id", "cancel_reason", "producer_id", "agent_id", "types"] as const),
]);
const bytes: ReadonlySet<Column> = new Set<Column>(["spec", "result", "waiting", "data"]);

function typeOf(column: Column): string {
  if (integers.has(column)) return "integer";
  if (texts.has(column)) return "text";
  return bytes.has(column) ? "bytea" : "bigint";
}

/** Texts by how many rows of each table they have: few, since each is prepared. */
const statements = new Map<string, string>();

/** The statement; it answers one row where it has written. Undefined where there are too many rows. */
export function appendStatement(append: Append): CompiledQuery | undefined {
  const { namespace, change, changed, appended, records } = append;
  const runs = [...changed, ...appended];
  if (runs.length > maxAppendRows || records.length > maxAppendRows) return undefined;
  const [runRows, recordRows] = [rowsFor(runs.length), rowsFor(records.length)];
  const key = `${runRows} ${recordRows}`;
  let text = statements.get(key);
  if (text === undefined) {
    text = textFor(runRows, recordRows);
    statements.set(key, text);
  }
  return CompiledQuery.raw(text, [
    namespace.namespace_id,
    namespace.version,
    namespace.append_id,
    ...totalColumns.map((column) => change[column]),
    ...valuesOf(runs, runColumns, runRows),
    ...valuesOf(records, recordColumns, recordRows),
  ]);
}

/** None, or the next power of two: rows that are missing are NULL. */
function rowsFor(count: number): number {
  return count === 0 ? 0 : 2 ** Math.ceil(Math.log2(count));
}

function valuesOf<Row extends object>(
  rows: readonly Row[],
  columns: readonly (keyof Row)[],
  count: number,
): unknown[] {
  const values: unknown[] = [];
  for (const row of rows) for (const column of columns) values.push(row[column]);
  while (values.length < count * columns.length) values.push(null);
  return values;
}

function textFor(runRows: number, recordRows: number): string {
  const set = totalColumns.map((column, index) => `${column} = $${index + 4}`);
  const parts = [
    `ns as (update namespaces set version = version + 1, ${set.join(", ")}
      where namespace_id = $1 and version = $2 and append_id = $3 returning namespace_id)`,
  ];
  let next = totalColumns.length + 4;
  const insert = (table: string, columns: readonly Column[], count: number, end = "") => {
    if (count === 0) return;
    const rows = Array.from({ length: count }, (_, row) => {
      const casts = columns.map((column) => `$${next++}${row === 0 ? `::${typeOf(column)}` : ""}`);
      return `(${casts.join(", ")})`;
    });
    const names = columns.join(", ");
    parts.push(
      `${table}_in as (insert into ${table} (${names})
        select v.* from ns cross join (values ${rows.join(", ")}) as v (${names})
        where v.namespace_id is not null${end})`,
    );
  };
  const excluded = changingRunColumns.map((column) => `${column} = excluded.${column}`);
  insert(
    "runs",
    runColumns,
    runRows,
    ` on conflict (namespace_id, run_key) do update set ${excluded.join(", ")}`,
  );
  insert("records", recordColumns, recordRows);
  return `with ${parts.join(",\n    ")}\n  select namespace_id, ${waitForStandby}, ${sendWarnings} from ns`;
}
