import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { sql } from "kysely";
import { freePort, type PostgresAddress, PostgresServer } from "../../dev/postgres-server.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";
import { JournalOpenError } from "../../src/refusal.ts";
import { sharedServer } from "../support/postgres.ts";

function open(url: string): Promise<Journal> {
  return openJournal(url, { ...defaultLimits, lockTimeoutMs: 1_000, databaseConnections: 2 });
}

/** Opens a journal that cannot be opened; the one line that says why. */
async function refusal(url: string): Promise<string> {
  try {
    await (await open(url)).close();
  } catch (error) {
    assert.ok(error instanceof JournalOpenError, String(error));
    assert.ok(!error.message.includes("\n"), error.message);
    return error.message;
  }
  assert.fail("it was opened");
}

describe("opening a journal on PostgreSQL", () => {
  let server: PostgresAddress;
  let databases = 0;

  before(async () => {
    server = await sharedServer();
  });

  const newDatabase = (options?: string) => server.createDatabase(`open_${++databases}`, options);

  it("creates its tables, and finds them again with the same identity", async () => {
    const url = await newDatabase();
    const first = await open(url);
    await first.close();
    const again = await open(url);
    assert.equal(again.id, first.id);
    await again.close();
  });

  it("is done once by nodes that start together", async () => {
    const url = await newDatabase();
    const journals = await Promise.all(Array.from({ length: 8 }, () => open(url)));
    assert.equal(new Set(journals.map((journal) => journal.id)).size, 1);
    await Promise.all(journals.map((journal) => journal.close()));
    const rows = await server.query("select name from kysely_migration", `open_${databases}`);
    assert.equal(new Set(rows.map(String)).size, rows.length);
  });

  it("needs no right to create tables once they are there", async () => {
    const url = await newDatabase();
    await (await open(url)).close();
    const database = `open_${databases}`;
    const clerk = `clerk_${databases}`;
    await server.query(`create role ${clerk} login password 'clerk'`);
    assert.match(
      await refusal(server.url(database, `${clerk}:clerk`)),
      /permission denied for .*: grant the role the missing privilege$/,
    );
    await server.query(`grant all on all tables in schema public to ${clerk}`, database);
    await (await open(server.url(database, `${clerk}:clerk`))).close();
  });

  it("refuses a role that may not create the missing tables", async () => {
    await newDatabase();
    const stranger = `stranger_${databases}`;
    await server.query(`create role ${stranger} login password 'stranger'`);
    assert.match(
      await refusal(server.url(`open_${databases}`, `${stranger}:stranger`)),
      /^cannot open postgres:\/\/stranger_\d+@.*permission denied for schema public: grant/,
    );
  });

  it("uses the schema that the connection names, beside other programs' tables", async () => {
    const url = await newDatabase();
    const database = `open_${databases}`;
    await server.query("create table invoices (id int)", database);
    assert.match(await refusal(url), /holds tables that are not runlog's \(invoices, …\)/);
    const inSchema = `${url}?options=${encodeURIComponent("-c search_path=events")}`;
    assert.match(await refusal(inSchema), /no schema of its search_path exists: create one/);
    await server.query("create schema events", database);
    await (await open(inSchema)).close();
    const [[count]] = (await server.query("select count(*) from events.records", database)) as [
      [string],
    ];
    assert.equal(count, "0");
  });

  const mistakes: readonly [string, string, RegExp][] = [
    ["an encoding that cannot hold every text", "", /its encoding is SQL_ASCII, create a database/],
    ["a server that takes no writes", "set default_transaction_read_only = on", /it is read-only/],
  ];
  for (const [name, setting, expected] of mistakes) {
    it(`is refused for ${name}`, async () => {
      const url = await newDatabase(
        setting === "" ? "encoding 'SQL_ASCII' locale 'C' template template0" : "",
      );
      if (setting !== "") await server.query(`alter database open_${databases} ${setting}`);
      assert.match(await refusal(url), expected);
    });
  }

  it("is refused for a server that is too old", async () => {
    const url = await newDatabase();
    const database = `open_${databases}`;
    // The server's own answer, but for its version.
    await server.query(
      `create function current_setting(text) returns text language sql as $$
        select case $1 when 'server_version_num' then '130012' else pg_catalog.current_setting($1) end $$`,
      database,
    );
    await server.query(`alter database ${database} set search_path = public, pg_catalog`);
    assert.match(await refusal(url), /its server is PostgreSQL 13, upgrade it to 14 or later$/);
  });

  it("is refused in a newer format", async () => {
    const url = await newDatabase();
    await (await open(url)).close();
    const newer = "update journal set format = 99, min_reader = 98, min_writer = 99";
    await server.query(newer, `open_${databases}`);
    assert.match(await refusal(url), /is in format 99.*: upgrade runlog$/);
  });

  it("says what is wrong with its location", async () => {
    await newDatabase();
    const database = `open_${databases}`;
    const port = await freePort();
    assert.match(
      await refusal(`postgres://runlog:secret@127.0.0.1:${port}/x`),
      /^cannot open postgres:\/\/runlog@127\.0\.0\.1:\d+\/x: connect ECONNREFUSED .*: start the server/,
    );
    const wrong = await refusal(server.url(database, "runlog:wrong"));
    assert.match(wrong, /password authentication failed .*: give the role's password/);
    assert.ok(!wrong.includes("runlog:"), "no password is shown");
    assert.match(await refusal(server.url("nowhere")), /does not exist: create the database first/);
    assert.match(await refusal("postgres://[/x"), /connection string is malformed/);
    assert.match(await refusal("mysql://localhost/x"), /write sqlite:PATH.* or postgres:\/\//);
  });

  it("tries the hosts one after the other", async () => {
    const url = new URL(await newDatabase());
    const absent = await freePort();
    const hosts = `127.0.0.1:${absent},${url.host}`;
    await (await open(`postgres://runlog:runlog@${hosts}${url.pathname}`)).close();
  });
});

describe("a journal on PostgreSQL over TLS", () => {
  const certificates = fileURLToPath(new URL("fixtures/tls/", import.meta.url));
  let server: PostgresServer;

  before(async () => {
    server = await PostgresServer.start({ tls: certificates });
  });

  after(async () => {
    await server.remove();
  });

  it("is what the connection string asks for, and refuses a stranger's certificate", async () => {
    const url = await server.createDatabase("secret");
    const ca = encodeURIComponent(join(certificates, "server.crt"));
    const journal = await open(`${url}?sslmode=verify-full&sslrootcert=${ca}`);
    const { rows } = await sql<{ encrypted: boolean }>`
      select ssl as encrypted from pg_stat_ssl where pid = pg_backend_pid()`.execute(journal.db);
    assert.equal(rows[0]?.encrypted, true);
    await journal.close();
    assert.match(await refusal(`${url}?sslmode=verify-full`), /self-signed certificate/);
  });
});
