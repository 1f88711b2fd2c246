/**
 * What a commit costs the event loop of a node that follows it, whatever its tail holds:
 * small records of 1,000 runs, in tails that are full. `npm run bench:tails`.
 *
 * - continues: another node's commit, read from the journal, is added; the oldest records go;
 * - leaves a gap: a commit of this node where others wrote before it: the tail begins anew.
 *
 * The garbage collector moves each record that stays once or twice. It is counted apart: a
 * tail so small that its records die young spares it that.
 */
import { PerformanceObserver } from "node:perf_hooks";
import { setImmediate as turn } from "node:timers/promises";
import { Tails } from "../src/delivery/tails.ts";
import type { CommittedRecord } from "../src/journal/committed-record.ts";
import { quantile } from "./stats.ts";

const MiB = 1024 * 1024;
const runs = 1_000;
const recordBytes = 40;
const recordsPerCommit = 10;
const commits = 50_000;
const rounds = 5;
const sizes = [1, 64, 256] as const;
const ways = ["continues", "leaves a gap"] as const;

type Way = (typeof ways)[number];

/** The records of a commit. */
function commitAt(firstSeq: number): CommittedRecord[] {
  return Array.from({ length: recordsPerCommit }, (_, index) => {
    const seq = firstSeq + index;
    return {
      firstSeq: seq,
      count: 1,
      lineage: [`run-${seq % runs}`, "root"],
      firstRunSeq: seq,
      types: "token",
      data: new Uint8Array(recordBytes),
    };
  });
}

/** When the garbage collector worked, and for how long, in milliseconds. */
const collections: { readonly startTime: number; readonly duration: number }[] = [];
const observer = new PerformanceObserver((list) => collections.push(...list.getEntries()));
observer.observe({ entryTypes: ["gc"] });

/** Microseconds of a commit. */
interface Cost {
  readonly all: number;
  /** Without garbage collection. */
  readonly own: number;
}

async function measure(sizeMiB: number, way: Way): Promise<Cost> {
  const tails = new Tails(sizeMiB * MiB);
  let seq = 1;
  const fill = (namespace: string) => {
    for (let held = -1; tails.bytes > held; seq += recordsPerCommit) {
      held = tails.bytes;
      tails.publish(namespace, commitAt(seq), 0);
    }
  };
  fill(way === "continues" ? "shared" : "other");
  const skipped = way === "continues" ? 0 : 1;
  const start = performance.now();
  for (let n = 0; n < commits; n++) {
    tails.publish("shared", commitAt(seq), 0);
    seq += recordsPerCommit + skipped;
  }
  const end = performance.now();
  // The collector's entries come with a later turn.
  for (let turns = 0; turns < 3; turns++) await turn();
  const collected = collections
    .splice(0)
    .filter(({ startTime }) => startTime >= start && startTime < end)
    .reduce((sum, { duration }) => sum + duration, 0);
  const usOf = (ms: number) => (ms * 1_000) / commits;
  return { all: usOf(end - start), own: usOf(end - start - collected) };
}

for (const way of ways) {
  const measured = new Map<number, Cost[]>(sizes.map((size) => [size, []]));
  for (const size of sizes) await measure(size, way);
  for (let round = 0; round < rounds; round++) {
    for (const size of sizes) measured.get(size)!.push(await measure(size, way));
  }
  for (const key of ["own", "all"] as const) {
    const name = key === "own" ? "without garbage collection" : "with it";
    const medianOf = (size: number) =>
      quantile(
        measured.get(size)!.map((cost) => cost[key]),
        0.5,
      );
    for (const size of sizes) {
      const figures = measured.get(size)!.map((cost) => cost[key]);
      const range = `${Math.min(...figures).toFixed(1)} to ${Math.max(...figures).toFixed(1)}`;
      const ratio = (medianOf(size) / medianOf(sizes[0])).toFixed(2);
      console.log(
        `${way}, ${size} MiB, ${name}: ${medianOf(size).toFixed(1)} µs a commit (${range}), ${ratio} ×`,
      );
    }
  }
}
observer.disconnect();
