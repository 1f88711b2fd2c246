/**
 * How many events a second go in and out over gRPC, by the number of events in
 * an Append frame. The server is a process of its own on a new SQLite file, with
 * fsync.
 *
 *     npm run bench:throughput
 */
import { mkdtemp, rm } from "node:fs/promises";
import { cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { clientOf, ingest, payloadBytes, quantile, replay } from "./load.ts";
import { startServer } from "./server-process.ts";

const cases = [
  { perFrame: 1, events: 100_000 },
  { perFrame: 16, events: 400_000 },
  { perFrame: 256, events: 400_000 },
];
const rounds = 3;
const namespace = "default";

const directory = await mkdtemp(join(tmpdir(), "runlog-bench-"));
const server = await startServer(`sqlite:${directory}/bench.db`);
try {
  const client = clientOf(server.url);
  console.log(
    `${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}, ${payloadBytes}-byte payloads, median of ${rounds}`,
  );
  console.log("events per Append | ingest, events/s, acknowledged durable | replay, events/s");
  const warmUp = { namespace, runId: "warm-up", events: 25_600, perFrame: 256 };
  await ingest(client, warmUp);
  await replay(client, warmUp);
  for (const { perFrame, events } of cases) {
    const count = Math.floor(events / perFrame) * perFrame;
    const inMs: number[] = [];
    const outMs: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const run = { namespace, runId: `run-${perFrame}-${round}`, events: count, perFrame };
      inMs.push((await ingest(client, run)).ms);
      outMs.push(await replay(client, run));
    }
    const rate = (ms: number) => Math.round((count / ms) * 1000).toLocaleString("en");
    console.log(`${perFrame} | ${rate(quantile(inMs, 0.5))} | ${rate(quantile(outMs, 0.5))}`);
  }
  client.close();
} finally {
  await server.stop();
  await rm(directory, { recursive: true });
}
