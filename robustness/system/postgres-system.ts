/** Several servers on one PostgreSQL, each with a network of its own to it. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { PostgresServer } from "../../dev/postgres-server.ts";
import type { History } from "../history/history.ts";
import { ServerNode } from "./server-node.ts";
import { mountSmallDisk } from "./small-disk.ts";
import type { Database, Needs, System } from "./system.ts";
import { TcpProxy } from "./tcp-proxy.ts";

const nodeCount = 2;
const databaseName = "runlog";
/** So that a node that is dead is dead to the others within a history. */
const limits = ["node-timeout=2s"];
/** A log of changes that takes all its room at once. */
const smallDiskSettings = { min_wal_size: "64MB", max_wal_size: "64MB", wal_init_zero: "on" };

/** Starts them; files are in a directory. */
export async function startPostgresSystem(
  directory: string,
  history: History,
  needs: Needs,
  maxRssBytes: number,
): Promise<System> {
  const ends: (() => Promise<unknown>)[] = [];
  const close = async () => {
    for (const end of ends.splice(0).reverse()) await end();
  };
  try {
    const database = await startDatabase(directory, needs, ends);
    const nodes: ServerNode[] = [];
    for (const [index, ways] of database.ways.entries()) {
      const hosts = ways.map(({ port }) => `127.0.0.1:${port}`).join(",");
      const journal = `postgres://runlog:runlog@${hosts}/${databaseName}`;
      const name = `node-${index}`;
      const node = new ServerNode({ name, journal, history, directory, limits, maxRssBytes });
      ends.push(() => node.close());
      nodes.push(node);
    }
    await Promise.all(nodes.map((node) => node.start()));
    return { kind: "postgres", nodes, database, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function startDatabase(
  directory: string,
  { smallDiskMiB, standby }: Needs,
  ends: (() => Promise<unknown>)[],
): Promise<Database> {
  let files: string | undefined;
  if (smallDiskMiB !== undefined) {
    files = join(directory, "postgres");
    await mkdir(files);
    ends.push(await mountSmallDisk(files, smallDiskMiB));
  }
  const settings = files === undefined ? {} : smallDiskSettings;
  const options = files === undefined ? { settings } : { settings, directory: files };
  const primary = await PostgresServer.start(options);
  await primary.createDatabase(databaseName);
  const ways: TcpProxy[][] = [];
  const database: Database = {
    primary,
    standby: undefined,
    name: databaseName,
    directory: files,
    ways,
    promote: async () => {
      const { primary: old, standby: next } = database;
      if (next === undefined) throw new Error("there is no standby");
      await old.kill();
      await next.promote();
      await awaitWrites(next);
      Object.assign(database, { primary: next, standby: undefined });
      await old.remove();
      await follow(database);
    },
  };
  ends.push(async () => {
    await database.standby?.remove();
    await database.primary.remove();
  });
  if (standby === true) await follow(database);
  for (let index = 0; index < nodeCount; index++) {
    const ports = [database.primary, database.standby].flatMap((server) => server?.port ?? []);
    const own = await Promise.all(ports.map((port) => TcpProxy.start(port)));
    ends.push(() => Promise.all(own.map((way) => way.close())));
    ways.push(own);
  }
  return database;
}

/** Makes a synchronous standby; it takes the place of the one that is gone. */
async function follow(database: Database): Promise<void> {
  const { primary, ways } = database;
  const standby = await primary.follow();
  database.standby = standby;
  for (const own of ways) {
    const free = own.find(({ target }) => target !== primary.port);
    if (free !== undefined) free.target = standby.port;
  }
  await primary.query("alter system set synchronous_standby_names = '*'");
  await primary.query("select pg_reload_conf()");
}

const promotionMs = 20_000;

async function awaitWrites(server: PostgresServer): Promise<void> {
  const givesUpMs = performance.now() + promotionMs;
  for (;;) {
    const [row] = await server.query("select pg_is_in_recovery()");
    if (row?.[0] === false) return;
    if (performance.now() > givesUpMs) throw new Error("the standby was not promoted");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
