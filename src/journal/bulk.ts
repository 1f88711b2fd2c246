/**
 * Rows for one table in one go. What is fast differs between databases: one
 * statement run row by row where there is no way to the server, one statement
 * with all values where there is. Neither is put together anew for each commit.
 */
import { CompiledQuery } from "kysely";
import type { Db, Schema } from "./schema.ts";
import { powers } from "./statement-lists.ts";

/** A row as it is stored. */
type StoredRow = Readonly<Record<string, unknown>>;

/** The same done to each of some rows. */
export interface BulkQuery extends CompiledQuery {
  readonly rows: readonly StoredRow[];
  /** The columns that are the parameters of `sql`, which does it to one row. */
  readonly columns: readonly string[];
  /** As few statements as may be that do it to all of them. */
  readonly together: () => readonly CompiledQuery[];
}

/** Whether a query is one for several rows. */
export function isBulk(query: CompiledQuery): query is BulkQuery {
  return "together" in query;
}

/** Rows of one table, inserted. */
export class BulkInsert<Row extends object> {
  readonly #columns: readonly (keyof Row & string)[];
  readonly #head: string;
  readonly #tail: string;
  readonly #one: string;
  readonly #texts = new Map<number, string>();

  /** @param conflict SQL for a row whose key exists */
  constructor(table: keyof Schema, columns: readonly (keyof Row & string)[], conflict = "") {
    this.#columns = columns;
    this.#head = `insert into ${table} (${columns.join(", ")}) values `;
    this.#tail = conflict === "" ? "" : ` ${conflict}`;
    this.#one = `${this.#head}(${columns.map(() => "?").join(", ")})${this.#tail}`;
  }

  /** Inserts rows inside the transaction `tx`. */
  run(tx: Db, rows: readonly Row[]): Promise<void> {
    return execute(tx, this.query(rows));
  }

  /** The query that inserts rows. */
  query(rows: readonly Row[]): BulkQuery {
    return queryFor(this.#one, this.#columns, rows, () => this.together(rows));
  }

  /** Few statements with all values; of few lengths, since each is prepared. */
  together(rows: readonly Row[]): CompiledQuery[] {
    return powers(rows).map((part) =>
      CompiledQuery.raw(
        this.#textOf(part.length),
        part.flatMap((row) => this.#columns.map((column) => row[column])),
      ),
    );
  }

  #textOf(rowCount: number): string {
    let text = this.#texts.get(rowCount);
    if (text === undefined) {
      const width = this.#columns.length;
      const row = (at: number) =>
        `(${this.#columns.map((_, index) => `$${at * width + index + 1}`).join(", ")})`;
      const rows = Array.from({ length: rowCount }, (_, at) => row(at));
      text = `${this.#head}${rows.join(", ")}${this.#tail}`;
      this.#texts.set(rowCount, text);
    }
    return text;
  }
}

/** Rows of one table, of which some columns change. */
export class BulkUpdate<Row extends object> {
  readonly #columns: readonly (keyof Row & string)[];
  readonly #one: string;
  readonly #upsert: BulkInsert<Row>;

  /**
   * @param keys the columns of the primary key
   * @param changing the columns that are written
   * @param others the other columns: PostgreSQL tells the types of parameters in an insert only
   */
  constructor(
    table: keyof Schema,
    keys: readonly (keyof Row & string)[],
    changing: readonly (keyof Row & string)[],
    others: readonly (keyof Row & string)[],
  ) {
    this.#columns = [...changing, ...keys];
    const set = changing.map((column) => `${column} = ?`).join(", ");
    this.#one = `update ${table} set ${set} where ${keys.map((key) => `${key} = ?`).join(" and ")}`;
    const excluded = changing.map((column) => `${column} = excluded.${column}`).join(", ");
    const conflict = `on conflict (${keys.join(", ")}) do update set ${excluded}`;
    this.#upsert = new BulkInsert(table, [...keys, ...others, ...changing], conflict);
  }

  /** Updates rows, which exist, inside the transaction `tx`. */
  run(tx: Db, rows: readonly Row[]): Promise<void> {
    return execute(tx, this.query(rows));
  }

  /** The query that updates rows. */
  query(rows: readonly Row[]): BulkQuery {
    return queryFor(this.#one, this.#columns, rows, () => this.#upsert.together(rows));
  }
}

function queryFor<Row extends object>(
  text: string,
  columns: readonly string[],
  rows: readonly Row[],
  together: () => readonly CompiledQuery[],
): BulkQuery {
  return { ...CompiledQuery.raw(text), columns, rows: rows as readonly StoredRow[], together };
}

async function execute(tx: Db, query: BulkQuery): Promise<void> {
  if (query.rows.length > 0) await tx.executeQuery(query);
}
