/**
 * What several nodes on one PostgreSQL take, and what runlog costs of it: the
 * same statements are sent by a bare `pg` client, in commits of the same shape,
 * as many at a time as nodes and namespaces allow. Everything shares one machine:
 * the database, the nodes and the load.
 *
 *     npm run bench:postgres
 */
import { cpus, totalmem } from "node:os";
import { PostgresServer } from "../dev/postgres-server.ts";
import { BareClient, type BareCommit } from "./bare-postgres.ts";
import { type BenchRun, clientOf, ingest, payloadBytes, replay } from "./load.ts";
import { cpuMs, treeCpuMs } from "./measure.ts";
import { quantile } from "./stats.ts";
import { startRunlog } from "./systems/runlog.ts";

const producers = 6;
const perFrame = 100;
const eventsPerProducer = 40_000;
const rounds = 3;
/** Appends of each producer where one at a time is under way. */
const singleAppends = 300;

type Shape = Omit<BareCommit, "namespace" | "runId" | "isShared">;

/** What one round gave. */
interface Figures {
  /** Events a second. */
  readonly ingest: number;
  readonly replay: number;
  /** Milliseconds of an acknowledgement, or of a commit of the bare client. */
  readonly p50: number;
  readonly p99: number;
  /** Microseconds of CPU for each event that is written: the database's, and the nodes' or the bare client's. */
  readonly cpu: number;
  /** The same of the producers, which share the machine; none where the bare client makes its own events. */
  readonly load: number;
}

/** A round of runlog, with what was in one of its commits on average. */
interface Round {
  readonly figures: Figures;
  readonly shape: Shape;
}

/** As deploy/ starts it on PostgreSQL. */
const nodeOptions = ["--max-semi-space-size=16"];
/** Segments of the log that are there before the first round. */
const logSegments = 100;
const settings = { max_connections: "200", min_wal_size: "2GB", max_wal_size: "8GB" };
const postgres = await PostgresServer.start({ settings });
await fillLog();
let databases = 0;

/** A new server makes its log while it writes; one that has run for a while uses its files again. */
async function fillLog(): Promise<void> {
  for (let i = 0; i < logSegments; i++) {
    await postgres.query("select pg_logical_emit_message(false, 'runlog', 'bench')");
    await postgres.query("select pg_switch_wal()");
  }
  await postgres.query("checkpoint");
}

/** Producers that send as fast as they can, and then one Append at a time. */
async function runlog(nodes: number, namespaces: number): Promise<[fast: Round, single: Round]> {
  const database = `bench_${++databases}`;
  const url = await postgres.createDatabase(database);
  const servers = await Promise.all(
    Array.from({ length: nodes }, () => startRunlog(url, nodeOptions)),
  );
  const clients = servers.map((server) => clientOf(server.url));
  const clientAt = (index: number) => clients[index % nodes]!;
  const each = <T>(work: (index: number) => Promise<T>): Promise<T[]> =>
    Promise.all(Array.from({ length: producers }, (_, index) => work(index)));
  const round = async (name: string, events: number, unacked?: number): Promise<Round> => {
    const runOf = (index: number): BenchRun => {
      return { namespace: `ns-${index % namespaces}`, runId: `${name}-${index}`, events, perFrame };
    };
    const ackMs: number[] = [];
    const nodesCpuMs = async () => {
      const times = await Promise.all(servers.map(({ pid }) => cpuMs(pid!)));
      return times.reduce((sum, one) => sum + one, 0);
    };
    const loadBefore = ownCpuMs();
    const [written, usedMs] = await timedWithCpu(nodesCpuMs, () =>
      each(async (index) => {
        const one = await ingest(clientAt(index), runOf(index), unacked);
        for (const ms of one.ackMs) ackMs.push(ms);
      }),
    );
    const loadMs = ownCpuMs() - loadBefore;
    const read = await timed(() => each((index) => replay(clientAt(index), runOf(index))));
    return {
      figures: {
        ingest: ((producers * events) / written) * 1_000,
        replay: ((producers * events) / read) * 1_000,
        p50: quantile(ackMs, 0.5),
        p99: quantile(ackMs, 0.99),
        cpu: (usedMs * 1_000) / (producers * events),
        load: (loadMs * 1_000) / (producers * events),
      },
      shape: await shapeOf(database, `${name}-%`),
    };
  };
  try {
    await round("warm-up", 10_000);
    return [
      await round("fast", eventsPerProducer),
      await round("single", singleAppends * perFrame, 1),
    ];
  } finally {
    for (const client of clients) client.close();
    for (const server of servers) await server.stop();
  }
}

/** How runlog's commits looked: what is in one of them, on average. */
async function shapeOf(database: string, runs: string): Promise<Shape> {
  const [[records, events, bytes, commits]] = (await postgres.query(
    `select count(*)::int, sum(event_count)::int, sum(size)::int, count(distinct r.xmin::text)::int
      from records r join runs using (namespace_id, run_key)
      where run_id like '${runs}' and first_run_seq > 0`,
    database,
  )) as unknown as [[number, number, number, number]];
  return {
    records: Math.max(1, Math.round(records / commits)),
    eventsPerRecord: Math.round(events / records),
    recordBytes: Math.round(bytes / records),
  };
}

async function bare(nodes: number, namespaces: number, shape: Shape): Promise<Figures> {
  const url = await postgres.createDatabase(`bench_${++databases}`);
  // The tables, as runlog makes them.
  await (await startRunlog(url)).stop();
  const lanes = Math.min(producers, nodes * namespaces);
  const clients = await Promise.all(
    Array.from({ length: lanes }, (_, lane) =>
      BareClient.open(url, {
        ...shape,
        namespace: `ns-${lane % namespaces}`,
        runId: `run-${lane}`,
        isShared: lanes > namespaces,
      }),
    ),
  );
  try {
    const perCommit = shape.records * shape.eventsPerRecord;
    const commits = Math.ceil((producers * eventsPerProducer) / perCommit / lanes);
    const commitMs: number[] = [];
    for (const client of clients) for (let i = 0; i < 5; i++) await client.commit();
    const [written, usedMs] = await timedWithCpu(ownCpuMs, () =>
      Promise.all(
        clients.map(async (client) => {
          for (let i = 0; i < commits; i++) commitMs.push(await timed(() => client.commit()));
        }),
      ),
    );
    let events = 0;
    const read = await timed(() =>
      Promise.all(
        clients.map(async (client) => {
          events += await client.replay();
        }),
      ),
    );
    return {
      ingest: ((commits * lanes * perCommit) / written) * 1_000,
      replay: (events / read) * 1_000,
      p50: quantile(commitMs, 0.5),
      p99: quantile(commitMs, 0.99),
      cpu: (usedMs * 1_000) / (commits * lanes * perCommit),
      load: 0,
    };
  } finally {
    for (const client of clients) await client.close();
  }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/** Milliseconds that it took, and that the database and whoever writes to it were busy meanwhile. */
async function timedWithCpu(
  writersCpuMs: () => Promise<number> | number,
  work: () => Promise<unknown>,
): Promise<[tookMs: number, usedMs: number]> {
  const used = async () => (await treeCpuMs(postgres.pid!)) + (await writersCpuMs());
  const before = await used();
  const tookMs = await timed(work);
  return [tookMs, (await used()) - before];
}

function ownCpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1_000;
}

function median(all: readonly Figures[], key: keyof Figures): number {
  return quantile(
    all.map((figures) => figures[key]),
    0.5,
  );
}

const whole = (value: number) => Math.round(value).toLocaleString("en");

try {
  console.log(
    `${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}, PostgreSQL 18 with fsync`,
  );
  console.log(
    `${producers} producers, ${perFrame} events of ${payloadBytes} bytes to an Append, median of ${rounds}`,
  );
  console.log(
    "nodes | namespaces | pipelined: ingest, events/s (of bare) | CPU, µs/event (bare, its share; producers) | commit | replay, events/s (of bare) | one Append at a time: events/s (of bare) | CPU | ack p50, p99 ms (bare commit) | commit",
  );
  for (const namespaces of [1, 4]) {
    for (const nodes of [1, 2, 3]) {
      const ours: [Figures[], Figures[]] = [[], []];
      const theirs: [Figures[], Figures[]] = [[], []];
      let shapes: Shape[] = [];
      for (let round = 0; round < rounds; round++) {
        const measured = await runlog(nodes, namespaces);
        shapes = measured.map(({ shape }) => shape);
        for (const way of [0, 1] as const) {
          ours[way].push(measured[way].figures);
          theirs[way].push(await bare(nodes, namespaces, measured[way].shape));
        }
      }
      const share = (way: 0 | 1, key: keyof Figures) => {
        const [mine, bareOnes] = [median(ours[way], key), median(theirs[way], key)];
        return `${whole(mine)} (${Math.round((mine / bareOnes) * 100)} %)`;
      };
      const cpu = (way: 0 | 1) => {
        const [mine, bareOnes] = [median(ours[way], "cpu"), median(theirs[way], "cpu")];
        const load = median(ours[way], "load");
        const ratio = Math.round((bareOnes / mine) * 100);
        return `${mine.toFixed(1)} (${bareOnes.toFixed(1)}, ${ratio} %; ${load.toFixed(1)})`;
      };
      const ms = (all: readonly Figures[]) =>
        `${median(all, "p50").toFixed(1)}, ${median(all, "p99").toFixed(1)}`;
      const commit = (way: 0 | 1) => `${shapes[way]?.records} × ${shapes[way]?.eventsPerRecord}`;
      console.log(
        [
          ...[nodes, namespaces, share(0, "ingest"), cpu(0), commit(0), share(0, "replay")],
          ...[share(1, "ingest"), cpu(1), `${ms(ours[1])} (${ms(theirs[1])})`, commit(1)],
        ].join(" | "),
      );
    }
  }
} finally {
  await postgres.remove();
}
