/**
 * A client that does what every client does, in a process of its own, and measures how
 * long it waits: connect, append, hear of it, health, GetRun.
 *
 *     node robustness/abuse/canary.ts URL     (with an IPC channel)
 *
 * It answers each message of its parent with what it has seen since the one before; calls
 * that are still waiting count with what they have waited so far.
 */
import { Health } from "../../gen/grpc/health/v1/health_pb.js";
import { type IngestResponse, IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { type SubscribeResponse, SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { pause } from "../load/actor.ts";
import { Channel, failureOf } from "../load/channel.ts";

/** What is measured, in the order of the table. */
export const waits = ["append", "live event", "health", "GetRun", "connect"] as const;
type Wait = (typeof waits)[number];

/** What a canary tells. */
export interface CanaryReport {
  /** Milliseconds, by what was waited for. */
  readonly worstWaitMs: Record<Wait, number>;
  readonly failures: readonly string[];
}

const namespace = "canary";
const everyMs = 50;
const callMs = 60_000;
const streamMs = 3_600_000;
const backoffMs = 100;

const url = process.argv[2] ?? "";
const parentIsGone = new AbortController();
const run = `canary-${process.pid}`;
let worst = noWaits();
let failures: string[] = [];
const waiting = new Map<object, { readonly what: Wait; readonly sinceMs: number }>();

function noWaits(): Record<Wait, number> {
  return { append: 0, "live event": 0, health: 0, GetRun: 0, connect: 0 };
}

/** Begins to wait; the function that is returned ends it, or forgets it where nothing will come. */
function wait(what: Wait): (comes?: boolean) => void {
  const key = {};
  const sinceMs = performance.now();
  waiting.set(key, { what, sinceMs });
  return (comes = true) => {
    if (!waiting.delete(key) || !comes) return;
    worst[what] = Math.max(worst[what], performance.now() - sinceMs);
  };
}

function fail(what: Wait, error: unknown): void {
  const { code, reason, message } = failureOf(error as Error);
  failures.push(`${what}: ${code} ${reason} ${message}`);
}

/** Repeats a call, one at a time. */
async function repeat(what: Wait, call: () => Promise<unknown>): Promise<void> {
  while (!parentIsGone.signal.aborted) {
    const done = wait(what);
    try {
      await call();
    } catch (error) {
      fail(what, error);
      await pause(backoffMs, parentIsGone.signal);
    }
    done();
    await pause(everyMs, parentIsGone.signal);
  }
}

/** Appends event after event on one stream, each after the acknowledgement of the one before. */
async function append(
  onSent: (runSeq: number) => void,
  onOpened: (lastRunSeq: number) => void,
): Promise<void> {
  let runSeq = 0;
  while (!parentIsGone.signal.aborted) {
    const channel = new Channel(url);
    const call = channel.duplex(IngestService.method.ingest, streamMs);
    const broken = new AbortController();
    let answered = Promise.withResolvers<void>();
    let done = wait("append");
    call.on("data", ({ frame }: IngestResponse) => {
      if (frame.case === "opened") {
        runSeq = Number(frame.value.lastRunSeq);
        onOpened(runSeq);
      }
      if (frame.case === "opened" || frame.case === "ack") answered.resolve();
      if (frame.case === "rejected") failures.push(`append: ${frame.value.message}`);
    });
    call.on("error", (error) => {
      fail("append", error);
      broken.abort();
    });
    call.on("end", () => broken.abort());
    broken.signal.addEventListener("abort", () => answered.resolve());
    call.write({ frame: { case: "open", value: { namespace, runId: run, create: {} } } });
    for (;;) {
      await answered.promise;
      done();
      if (broken.signal.aborted || parentIsGone.signal.aborted) break;
      await pause(everyMs, parentIsGone.signal);
      answered = Promise.withResolvers<void>();
      done = wait("append");
      runSeq++;
      onSent(runSeq);
      const events = [{ type: "canary", data: Buffer.from(String(runSeq)) }];
      const value = { runId: run, firstRunSeq: BigInt(runSeq), events };
      call.write({ frame: { case: "append", value } });
    }
    channel.close();
    await pause(backoffMs, parentIsGone.signal);
  }
}

/** Hears of each event that is appended. */
async function listen(onHeard: (runSeq: number) => void): Promise<void> {
  let after = 0n;
  while (!parentIsGone.signal.aborted) {
    const channel = new Channel(url);
    const ended = Promise.withResolvers<void>();
    const scope = { case: "runIds" as const, value: { runIds: [run] } };
    const start = { case: "afterSeq" as const, value: after };
    const request = { namespace, filter: { scope }, start, allowMissing: true };
    const call = channel.serverStream(SubscribeService.method.subscribe, request, streamMs);
    call.on("data", ({ frame }: SubscribeResponse) => {
      if (frame.case !== "events") return;
      for (const { seq, runSeq } of frame.value.events) {
        after = seq;
        onHeard(Number(runSeq));
      }
    });
    call.on("error", (error) => {
      fail("live event", error);
      ended.resolve();
    });
    call.on("end", () => ended.resolve());
    await ended.promise;
    channel.close();
    await pause(backoffMs, parentIsGone.signal);
  }
}

if (process.send !== undefined) {
  const heard = new Map<number, (comes?: boolean) => void>();
  const channel = new Channel(url);
  const { check } = Health.method;
  const all = [
    append(
      (runSeq) => heard.set(runSeq, wait("live event")),
      (lastRunSeq) => {
        // What was sent before the connection broke, and is not there, nobody will hear of.
        for (const [runSeq, done] of heard) {
          if (runSeq <= lastRunSeq) continue;
          done(false);
          heard.delete(runSeq);
        }
      },
    ),
    listen((runSeq) => {
      heard.get(runSeq)?.();
      heard.delete(runSeq);
    }),
    repeat("health", () => channel.unary(check, {}, callMs)),
    repeat("GetRun", () =>
      channel.unary(RunService.method.getRun, { namespace, runId: run }, callMs),
    ),
    repeat("connect", async () => {
      const fresh = new Channel(url);
      try {
        await fresh.unary(check, {}, callMs);
      } finally {
        fresh.close();
      }
    }),
  ];
  process.on("message", () => {
    const nowMs = performance.now();
    for (const { what, sinceMs } of waiting.values()) {
      worst[what] = Math.max(worst[what], nowMs - sinceMs);
    }
    process.send?.({ worstWaitMs: worst, failures } satisfies CanaryReport);
    worst = noWaits();
    failures = [];
  });
  process.once("disconnect", () => process.exit());
  await Promise.all(all);
}
