/**
 * The PostgreSQL of the tests: one server for all processes that run tests, with databases
 * of each process's own. It is started when it is first asked for, or, where files run in
 * parallel, by `parallel.ts` before them.
 */
import { PostgresAddress, type PostgresServer } from "../../dev/postgres-server.ts";
import { portVariable, startSharedServer } from "./shared-server.ts";

let own: Promise<PostgresServer> | undefined;
let databases = 0;

/** The server that the tests share; nobody stops or kills it. */
export async function sharedServer(): Promise<PostgresAddress> {
  const port = process.env[portVariable];
  if (port !== undefined) return new PostgresAddress(Number(port));
  own ??= startSharedServer();
  return own;
}

/** Stops the server, if this process started one. */
export async function stopOwnServer(): Promise<void> {
  if (own === undefined) return;
  const server = await own;
  own = undefined;
  emptyDatabases.length = 0;
  await server.remove();
}

/** Databases that are empty again; making one costs more than emptying it. */
const emptyDatabases: string[] = [];

/** The connection string of an empty database. */
export async function takeDatabase(): Promise<string> {
  const empty = emptyDatabases.pop();
  const name = `test_${process.env["MOCHA_WORKER_ID"] ?? ""}_${++databases}`;
  return empty ?? (await sharedServer()).createDatabase(name);
}

/** Empties a database that nobody uses any more. */
export async function giveBackDatabase(url: string): Promise<void> {
  const database = new URL(url).pathname.slice(1);
  await (await sharedServer()).query(
    `do $$ begin execute (
      select 'truncate ' || string_agg(quote_ident(tablename), ', ') || ' restart identity'
      from pg_tables where schemaname = 'public' and tablename not like 'kysely%'); end $$`,
    database,
  );
  emptyDatabases.push(url);
}

/** Makes a table `used` of what backends use when they commit records, and how far their log was. */
export const noteCommits = `create table used (value text, lsn pg_lsn);
  create function note() returns trigger language plpgsql as $$ begin
    insert into used values (current_setting('synchronous_commit'), pg_current_wal_insert_lsn());
    return null; end $$;
  create constraint trigger note after insert on records deferrable initially deferred
    for each row execute function note()`;
