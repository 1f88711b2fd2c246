/** Faults of PostgreSQL itself, and of those who share it. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import pg from "pg";
import type { Database } from "../system/system.ts";
import type { Nemesis } from "./nemesis.ts";

const run = promisify(execFile);

const kill: Nemesis = {
  name: "postgres-kill",
  what: "kill -9 of PostgreSQL, which comes back",
  journal: "postgres",
  hits: ["database"],
  async strike({ database: { primary } }, { wait }) {
    await primary.kill();
    await wait(0, 2_000);
    await primary.start();
  },
};

const restart: Nemesis = {
  name: "postgres-restart",
  what: "a fast shutdown of PostgreSQL, and a start",
  journal: "postgres",
  hits: ["database"],
  async strike({ database: { primary } }, { wait }) {
    await primary.stop();
    await wait(0, 3_000);
    await primary.start();
  },
};

/** Calls a function of PostgreSQL with the pid of each session, again and again. */
function onSessions(name: string, what: string, call: string): Nemesis {
  return {
    name,
    what,
    journal: "postgres",
    hits: ["database"],
    async strike({ database }, { random, wait }) {
      for (let times = random.between(3, 12); times > 0; times--) {
        const permille = random.pick([1000, 400]);
        await database.primary.query(
          `select ${call}(pid) from pg_stat_activity where datname = '${database.name}'
            and pid <> pg_backend_pid() and random() * 1000 < ${permille}`,
        );
        await wait(20, 400);
      }
    },
  };
}

const readOnly: Nemesis = {
  name: "postgres-read-only",
  what: "the database takes no writes for a while",
  journal: "postgres",
  hits: ["database"],
  async strike({ database: { primary } }, { wait }) {
    const set = async (value: string) => {
      await primary.query(`alter system set default_transaction_read_only = ${value}`);
      await primary.query("select pg_reload_conf()");
    };
    await set("on");
    await wait(1_000, 6_000);
    await set("off");
  },
};

const suspended: Nemesis = {
  name: "postgres-backends-suspended",
  what: "SIGSTOP of the sessions of nodes, whatever they hold",
  journal: "postgres",
  hits: ["database"],
  async strike({ database }, { random, wait }) {
    const rows = await database.primary.query(
      `select pid from pg_stat_activity where datname = '${database.name}' and pid <> pg_backend_pid()`,
    );
    const pids = rows.map(([pid]) => String(pid)).filter(() => random.between(0, 2) > 0);
    if (pids.length === 0) return;
    // A session may have ended meanwhile; the others are signalled all the same.
    await run("kill", ["-STOP", ...pids]).catch(() => undefined);
    await wait(500, 5_000);
    await run("kill", ["-CONT", ...pids]).catch(() => undefined);
  },
};

const locks: Nemesis = {
  name: "postgres-locks",
  what: "a stranger locks rows or tables of the journal",
  journal: "postgres",
  hits: ["database"],
  async strike({ database }, { random, wait }) {
    const statement = random.pick([
      "select 1 from namespaces for update",
      "lock table runs in access exclusive mode",
      "lock table records in share mode",
      "select 1 from runs for update",
    ]);
    await whileConnected(database, async (client) => {
      await client.query("begin");
      await client.query("set local lock_timeout = '5s'");
      await client.query(statement).catch((error: unknown) => {
        // A lock that the load did not let it have in time.
        if ((error as { code?: string }).code !== "55P03") throw error;
      });
      await wait(1_000, 7_000);
      await client.query("rollback");
    });
  },
};

const strangeNotifications: Nemesis = {
  name: "postgres-notify",
  what: "notifications on the journal's channel that no node sent",
  journal: "postgres",
  hits: ["database"],
  async strike({ database }, { random, wait }) {
    const payloads = [
      "",
      "x",
      "{",
      "[]",
      "null",
      '{"a":1}',
      "\u{1F4A5}",
      "x".repeat(7_900),
      '["a"]',
      "0",
    ];
    await whileConnected(database, async (client) => {
      for (let times = 0; times < 20; times++) {
        await client.query("select pg_notify('runlog', $1)", [random.pick(payloads)]);
        await wait(5, 50);
      }
    });
  },
};

const promotion: Nemesis = {
  name: "postgres-promotion",
  what: "the primary is killed, its synchronous standby promoted, and a new standby follows",
  journal: "postgres",
  hits: ["database"],
  needs: { standby: true },
  async strike({ database }) {
    await database.promote();
  },
};

async function whileConnected(
  { primary, name }: Database,
  use: (client: pg.Client) => Promise<void>,
): Promise<void> {
  const client = new pg.Client({ connectionString: primary.url(name) });
  // Another nemesis may end the session; the query that fails says so.
  client.on("error", () => undefined);
  await client.connect();
  try {
    await use(client);
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** All of them. */
export const postgresNemeses: readonly Nemesis[] = [
  kill,
  restart,
  onSessions("postgres-terminate", "sessions of nodes are terminated", "pg_terminate_backend"),
  onSessions("postgres-cancel", "statements of nodes are cancelled", "pg_cancel_backend"),
  readOnly,
  suspended,
  locks,
  strangeNotifications,
  promotion,
];
