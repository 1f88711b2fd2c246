import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { type Connection, connect } from "./history.ts";
import { ServerProcesses } from "./server-process.ts";
import { parseTrace, type SystemCall } from "./system-calls.ts";

/** The tracer. Not everywhere there; in CI it is. */
const strace = "strace";
/** What may write a record, make it durable, and answer a client. */
const traced = "fsync,fdatasync,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg";
const syncs = ["fsync", "fdatasync"];

/** Why nothing can be traced here, if so. */
function whyUntraceable(): string | undefined {
  const args = ["-f", "-o", "/dev/null", process.execPath, "--version"];
  const { error, status, stderr } = spawnSync(strace, args, { encoding: "utf8" });
  if (error !== undefined) return error.message;
  return status === 0 ? undefined : stderr;
}

/** Whether a call's descriptor is the database's write-ahead log. */
function isOnWal({ args }: SystemCall): boolean {
  return /^\d+<[^>]*runlog\.db-wal>/.test(args);
}

function isOnSocket({ args }: SystemCall): boolean {
  return /^\d+<(TCP|TCPv6):/.test(args);
}

/**
 * Asserts: the transaction with `stored` was written to the log, the thread that wrote
 * it synced the log with success, and only then the answer began to be written to the
 * client's socket.
 */
function assertSyncedBefore(
  calls: readonly SystemCall[],
  stored: string,
  answer: SystemCall,
): void {
  const written = calls.find((call) => isOnWal(call) && call.args.includes(stored));
  assert.ok(written !== undefined, "the record was not written to the log");
  assert.ok((written.result ?? -1) > 0);
  assert.ok(written.ended < answer.began, "the answer precedes the record");
  // A thread writes the rest of a transaction, and syncs, before it begins another.
  const synced = calls.find(
    (call) =>
      call.thread === written.thread &&
      isOnWal(call) &&
      syncs.includes(call.name) &&
      call.began > written.ended,
  );
  assert.ok(synced !== undefined, "the log was not synced after the record");
  assert.equal(synced.result, 0);
  assert.ok(synced.ended < answer.began, "the answer was written before the log was synced");
}

describe("the system calls of a server", () => {
  const servers = new ServerProcesses();
  let directory: string;
  let connection: Connection | undefined;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-sync-"));
  });

  afterEach(async () => {
    connection?.close();
    await servers.endAll();
    await rm(directory, { recursive: true });
  });

  it("sync the log after a record is written to it and before it is acknowledged", async function () {
    const reason = whyUntraceable();
    if (reason !== undefined) {
      if (process.env["CI"]) assert.fail(`strace does not work: ${reason}`);
      console.warn(`SKIPPED, strace does not work: ${reason}`);
      this.skip();
    }
    const trace = join(directory, "trace");
    const tracer = [strace, "-f", "-yy", "-s", "65536", "-e", `trace=${traced}`, "-o", trace];
    const server = await servers.start({ file: join(directory, "runlog.db") }, tracer);
    connection = connect(server.url);
    // Each stands in one record and in its answer, or in one of the two only.
    const runId = `run-${randomUUID()}`;
    const payload = `payload-${randomUUID()}`;
    const output = `output-${randomUUID()}`;

    // An acknowledgement names the run, and the opening is answered before anything is appended.
    const opened = Promise.withResolvers<void>();
    const acked = Promise.withResolvers<void>();
    async function* requests() {
      yield { frame: { case: "open" as const, value: { runId, create: {} } } };
      await opened.promise;
      const events = [{ type: "marked", data: Buffer.from(payload) }];
      yield { frame: { case: "append" as const, value: { runId, firstRunSeq: 1n, events } } };
      await acked.promise;
      const result = { state: RunState.SUCCEEDED, output: Buffer.from(output) };
      yield { frame: { case: "finish" as const, value: { runId, lastRunSeq: 1n, result } } };
    }
    const answers: (string | undefined)[] = [];
    for await (const { frame } of connection.ingest.ingest(requests())) {
      answers.push(frame.case);
      if (frame.case === "opened") opened.resolve();
      if (frame.case === "ack") acked.resolve();
    }
    assert.deepEqual(answers, ["opened", "ack", "ended"]);
    await server.stop();

    const calls = parseTrace(await readFile(trace, "utf8"));
    const told = calls.filter((call) => isOnSocket(call) && call.args.includes(runId));
    assert.equal(told.length, 3, "one write to the socket for each answer");
    const [, ack, ended] = told;
    assertSyncedBefore(calls, payload, ack!);
    assert.ok(ended!.args.includes(output));
    assertSyncedBefore(calls, output, ended!);
  });
});
