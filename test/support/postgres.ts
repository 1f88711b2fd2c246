/** The PostgreSQL of the tests: one server a process, started when it is first asked for. */
import { PostgresServer } from "../../dev/postgres-server.ts";

let server: Promise<PostgresServer> | undefined;
let databases = 0;

/** The server that the tests share; nobody stops or kills it. */
export function sharedServer(): Promise<PostgresServer> {
  // A crash of the machine is not what these tests are about.
  server ??= PostgresServer.start({ settings: { fsync: "off", max_connections: "300" } });
  return server;
}

/** Databases that are empty again; making one costs more than emptying it. */
const emptyDatabases: string[] = [];

/** The connection string of an empty database. */
export async function takeDatabase(): Promise<string> {
  const empty = emptyDatabases.pop();
  return empty ?? (await sharedServer()).createDatabase(`test_${++databases}`);
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

after(async () => {
  await (await server)?.remove();
});
