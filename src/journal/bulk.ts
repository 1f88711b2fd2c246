/**
 * Rows for one table in one go. What is fast differs between databases: one
 * statement run row by row where there is no way to the server, one statement
 * with all values where there is. Neither is put together anew for each commit.
 */
import { CompiledQuery } from "kysely";
import { powers } from "./lists.ts";
import type { Db, Schema } from "./schema.ts";

/** A statement for each of some rows. */
export interface BulkQuery extends CompiledQuery {
  /** Values in the order of the statement's parameters, a list for each row. */
  readonly rows: readonly (readonly unknown[])[];
  /** The statement for so many rows, with numbered parameters. */
  readonly textOf: (rowCount: number) => string;
}

/** The rows of a query, where it is one for several of them. */
export function isBulk(query: CompiledQuery): query is BulkQuery {
  return "rows" in query;
}

/** One table's rows. */
export class Bulk<Row extends object> {
  readonly #columns: readonly (keyof Row & string)[];
  readonly #before: string;
  readonly #after: string;
  readonly #one: string;
  readonly #texts = new Map<number, string>();

  /**
   * @param conflict what is done with a row whose key exists, as SQL; empty where none does
   */
  constructor(table: keyof Schema, columns: readonly (keyof Row & string)[], conflict = "") {
    this.#columns = columns;
    this.#before = `insert into ${table} (${columns.join(", ")}) values `;
    this.#after = conflict === "" ? "" : ` ${conflict}`;
    this.#one = `${this.#before}(${columns.map(() => "?").join(", ")})${this.#after}`;
  }

  /** Inserts rows inside the transaction `tx`. */
  async insert(tx: Db, rows: readonly Row[]): Promise<void> {
    if (rows.length === 0) return;
    const values = rows.map((row) => this.#columns.map((column) => row[column]));
    const query: BulkQuery = {
      ...CompiledQuery.raw(this.#one),
      rows: values,
      textOf: (rowCount) => this.#textOf(rowCount),
    };
    await tx.executeQuery(query);
  }

  #textOf(rowCount: number): string {
    let text = this.#texts.get(rowCount);
    if (text === undefined) {
      const width = this.#columns.length;
      const row = (at: number) =>
        `(${this.#columns.map((_, index) => `$${at * width + index + 1}`).join(", ")})`;
      const rows = Array.from({ length: rowCount }, (_, at) => row(at));
      text = `${this.#before}${rows.join(", ")}${this.#after}`;
      this.#texts.set(rowCount, text);
    }
    return text;
  }
}

/** A bulk query as few statements with all their values; of few lengths, since each is prepared. */
export function statementsOf({ rows, textOf }: BulkQuery): CompiledQuery[] {
  return powers(rows).map((part) => CompiledQuery.raw(textOf(part.length), part.flat()));
}
