/**
 * Queries that are compiled once. Kysely builds and compiles a query anew for each
 * execution, which costs more than SQLite's work for a small one: a page of records
 * asks four.
 */
import type { Compilable, CompiledQuery } from "kysely";
import type { Db } from "./schema.ts";

/** Stands in a compiled query's parameters for a value that each execution gives. */
class Placeholder {
  readonly name: string;
  /** Where the value stands in its list; undefined for a single value. */
  readonly index: number | undefined;

  constructor(name: string, index?: number) {
    this.name = name;
    this.index = index;
  }

  valueIn(args: object): unknown {
    const value = (args as Record<string, unknown>)[this.name];
    return this.index === undefined ? value : (value as readonly unknown[])[this.index];
  }
}

/**
 * A query that is built at its first execution on a database, once for each length of
 * the lists among its arguments.
 *
 * @param build makes the query. It may only pass the arguments on as parameters: what
 *   it reads of them (a length apart) is that of the first execution.
 */
export function compileOnce<Args extends object, Row>(
  build: (db: Db, args: Args) => Compilable<Row>,
): (db: Db, args: Args) => Promise<Row[]> {
  // A transaction shares its database's adapter.
  const known = new WeakMap<object, Map<string, CompiledQuery<Row>>>();
  return async (db, args) => {
    const { adapter } = db.getExecutor();
    let ofDatabase = known.get(adapter);
    if (ofDatabase === undefined) {
      ofDatabase = new Map();
      known.set(adapter, ofDatabase);
    }
    const shape = shapeOf(args);
    let query = ofDatabase.get(shape);
    if (query === undefined) {
      // Plugins see what is executed, not what is compiled for later.
      query = build(db.withoutPlugins(), placeholdersFor(args)).compile();
      ofDatabase.set(shape, query);
    }
    const parameters = query.parameters.map((parameter) =>
      parameter instanceof Placeholder ? parameter.valueIn(args) : parameter,
    );
    const { rows } = await db.executeQuery<Row>({ ...query, parameters });
    return rows;
  };
}

function shapeOf(args: object): string {
  let shape = "";
  for (const value of Object.values(args)) if (Array.isArray(value)) shape += `${value.length} `;
  return shape;
}

function placeholdersFor<Args extends object>(args: Args): Args {
  const out: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(args)) {
    out[name] = Array.isArray(value)
      ? value.map((_, index) => new Placeholder(name, index))
      : new Placeholder(name);
  }
  return out as Args;
}
