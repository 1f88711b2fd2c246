import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { follow, openRun, type RunSender } from "../../src/client/index.ts";
import { HandProducer, HandRun } from "./hand-producer.ts";
import {
  assertPromisesKept,
  type Connection,
  connect,
  eventAt,
  type Promised,
  replay,
} from "./history.ts";
import { chosenSeed, type Random, randomOf } from "./random.ts";
import { type CrashPoint, type ServerProcess, ServerProcesses } from "./server-process.ts";
import { sendStepByStep, stepEvents, stepPromises, stepRunId } from "./step-by-step.ts";

/** A consumer of everything, which resumes from its cursor and sees each seq once. */
class Follower {
  #after = 0n;
  #journalId = "";
  #wanted: { readonly seq: bigint; readonly reached: () => void } | undefined;

  /** Reads on from the cursor until the connection breaks. */
  async read({ subscribe }: Connection): Promise<void> {
    const request = {
      filter: { scope: { case: "all" as const, value: {} } },
      start: { case: "afterSeq" as const, value: this.#after },
      journalId: this.#journalId,
    };
    for await (const { frame } of subscribe.subscribe(request)) {
      if (frame.case === "subscribed") {
        this.#journalId = frame.value.journalId;
      } else if (frame.case === "events") {
        for (const { seq } of frame.value.events) {
          assert.equal(seq, this.#after + 1n, "a seq was left out or repeated");
          this.#after = seq;
        }
      } else if (frame.case === "caughtUp" || frame.case === "progress") {
        assert.equal(frame.value.seq, this.#after);
      }
      if (this.#wanted !== undefined && this.#after >= this.#wanted.seq) this.#wanted.reached();
    }
  }

  /** Resolves once it has seen this seq. Set before it reads. */
  until(seq: bigint): Promise<void> {
    return new Promise((resolve) => {
      this.#wanted = { seq, reached: resolve };
      if (this.#after >= seq) resolve();
    });
  }
}

/** Whether a call broke because the server is gone; an assertion or a refusal is no such thing. */
function isBreak(error: unknown): boolean {
  return error instanceof ConnectError && error.findDetails(ErrorDetailSchema).length === 0;
}

/** Settles a call that broke because the server is gone. */
async function broken(call: Promise<void>): Promise<void> {
  try {
    await call;
  } catch (error) {
    if (!isBreak(error)) throw error;
  }
}

describe("a server that is killed", () => {
  const seed = chosenSeed();
  const servers = new ServerProcesses();
  const connections: Connection[] = [];
  /** Ends senders and followers that would go on by themselves. */
  let life: AbortController;
  /** The kills and restarts under way. */
  let killing: Promise<void>;
  let directory: string;
  let file: string;

  beforeEach(async () => {
    life = new AbortController();
    killing = Promise.resolve();
    directory = await mkdtemp(join(tmpdir(), "runlog-kill-"));
    file = join(directory, "runlog.db");
  });

  afterEach(async () => {
    life.abort();
    // So that it starts no server that nobody ends; its failure has failed the test.
    await killing.catch(() => undefined);
    for (const connection of connections.splice(0)) connection.close();
    await servers.endAll();
    await rm(directory, { recursive: true });
  });

  function connectTo(server: ServerProcess): Connection {
    const connection = connect(server.url);
    connections.push(connection);
    return connection;
  }

  /** New runs for a round: a short one, and a long one that outlasts any kill of the round. */
  function addRuns(producers: readonly HandProducer[], round: number, random: Random): void {
    for (const [index, producer] of producers.entries()) {
      const name = `round-${round}/producer-${index}`;
      producer.runs.push(new HandRun(`${name}/short`, random.between(3, 20), round % 2 === 0));
      producer.runs.push(new HandRun(`${name}/long`, random.between(450, 600), index % 2 === 0));
    }
  }

  it(`keeps every promise over kills under load (RUNLOG_TEST_SEED=${seed})`, async () => {
    const random = randomOf(seed);
    // Killed from outside after so many acknowledgements, or by itself at a chosen point. A long
    // run alone takes 450 / 32 = 14 acknowledgements and commits, so no round ends before its kill.
    const rounds: readonly (number | CrashPoint)[] = [
      random.between(1, 40),
      { at: "before-commit", transaction: random.between(2, 12) },
      random.between(1, 40),
      random.between(1, 40),
      { at: "after-commit", transaction: random.between(2, 12) },
      random.between(1, 40),
      random.between(1, 40),
    ];
    const producers = Array.from({ length: 3 }, () => new HandProducer(random));
    const promises = (): Promised[] => producers.flatMap((producer) => producer.runs);
    const follower = new Follower();
    let endsBeforeKills = 0;
    for (const [round, kill] of rounds.entries()) {
      addRuns(producers, round, random);
      const server = await servers.start(
        typeof kill === "number" ? { file } : { file, crash: kill },
      );
      const connection = connectTo(server);
      let acks = 0;
      const onAck = () => {
        if (++acks === kill) process.kill(server.pid, "SIGKILL");
      };
      const calls = producers.map((producer) => broken(producer.produce(connectTo(server), onAck)));
      await Promise.all([...calls, broken(follower.read(connection))]);
      const { committedSeq } = await server.ended;
      assert.ok(
        promises().some((run) => !run.isEnded),
        "the kill came after everything",
      );
      endsBeforeKills += promises().filter((run) => run.isEnded).length;
      const ackedSeq = Math.max(...promises().map((run) => run.ackedSeq));

      const restarted = await servers.start({ file });
      const records = await assertPromisesKept(connectTo(restarted), promises());
      if (typeof kill !== "number") {
        assert.equal(records.length, committedSeq, "the kill was not at the chosen point");
        if (kill.at === "after-commit") {
          assert.ok(ackedSeq < records.length, "what was committed last was acknowledged");
        }
      }
      await restarted.kill();
    }
    assert.ok(endsBeforeKills > 0, "no run ended before a kill");

    const server = await servers.start({ file });
    const connection = connectTo(server);
    const calls = producers.map((producer) => producer.produce(connectTo(server), () => undefined));
    await Promise.all(calls);
    for (const run of producers.flatMap((producer) => producer.runs)) {
      assert.ok(run.isEnded);
      assert.equal(run.acked, run.planned);
    }
    const records = await assertPromisesKept(connection, promises());
    const end = follower.until(BigInt(records.length));
    const reading = broken(follower.read(connection));
    await Promise.race([end, reading.then(() => assert.fail("the subscription ended early"))]);
    await server.kill();
    await reading;
  });

  it(`lets senders and followers go on by themselves (RUNLOG_TEST_SEED=${seed})`, async () => {
    const random = randomOf(seed);
    // The server comes back under another port; the client is led there.
    let connection: Connection;
    const transport: Transport = {
      unary: (...args) => connection.transport.unary(...args),
      stream: (...args) => connection.transport.stream(...args),
    };
    const backoff = { baseMs: 10, capMs: 100 };
    const planned = 1_500;
    let server = await servers.start({ file });
    connection = connectTo(server);

    const senders: RunSender[] = Array.from({ length: 4 }, (_, index) =>
      openRun(transport, {
        runId: `run-${index}`,
        spec: { agentId: "sender" },
        signal: life.signal,
        limits: { maxBufferedEvents: 64, maxFrameEvents: 16, backoff },
      }),
    );
    const produce = async (sender: RunSender): Promise<void> => {
      for (let runSeq = 1; runSeq <= planned; runSeq++) {
        await sender.ready();
        assert.ok(sender.emit(eventAt(sender.runId, runSeq)));
      }
      const { run, durable } = await sender.finish({ state: RunState.SUCCEEDED });
      assert.equal(run.lastRunSeq, BigInt(planned));
      assert.equal(durable, planned);
    };

    const kills = Array.from({ length: 3 }, (_, k) => 1_200 * k + random.between(200, 1_000));
    const total = BigInt(senders.length * (planned + 2));
    const killAndRestart = async (): Promise<void> => {
      await server.kill();
      server = await servers.start({ file });
      connection = connectTo(server);
    };
    const consume = async (): Promise<void> => {
      let last = 0n;
      const request = { filter: { scope: { case: "all" as const, value: {} } }, after: 0n };
      const options = { signal: life.signal, backoff };
      for await (const item of follow(transport, request, options)) {
        if (item.t !== "records") continue;
        for (const { seq } of item.records) {
          assert.equal(seq, last + 1n, "a seq was left out or repeated");
          last = seq;
        }
        if (kills.length > 0 && last >= BigInt(kills[0]!)) {
          kills.shift();
          // One after the other; the follower itself must go on reading.
          killing = killing.then(killAndRestart);
        }
        if (last === total) return;
      }
    };
    await Promise.all([...senders.map(produce), consume()]);
    await killing;
    assert.deepEqual(kills, []);
    assert.ok(senders.some((sender) => sender.stats.reconnects > 0));

    const promises = senders.map(({ runId }) => {
      return { runId, sent: planned, acked: planned, ackedSeq: 0, isEnded: true };
    });
    const records = await assertPromisesKept(connectTo(server), promises);
    assert.equal(BigInt(records.length), total);
  });

  describe("at a chosen point", () => {
    // A start, three events, an end; each step is a transaction.
    const cases: readonly { what: string; crash: CrashPoint; durable: number }[] = [
      { what: "an opening", crash: { at: "before-commit", transaction: 1 }, durable: 0 },
      { what: "an opening", crash: { at: "after-commit", transaction: 1 }, durable: 1 },
      { what: "an append", crash: { at: "before-commit", transaction: 2 }, durable: 1 },
      { what: "an append", crash: { at: "after-commit", transaction: 2 }, durable: 4 },
      { what: "a finish", crash: { at: "before-commit", transaction: 3 }, durable: 4 },
      { what: "a finish", crash: { at: "after-commit", transaction: 3 }, durable: 5 },
    ];
    for (const { what, crash, durable } of cases) {
      it(`${crash.at} of ${what}: has ${durable} records and takes the same again`, async () => {
        const crashing = await servers.start({ file, crash });
        await assert.rejects(sendStepByStep(connectTo(crashing)), isBreak);
        await crashing.ended;

        const connection = connectTo(await servers.start({ file }));
        assert.equal((await replay(connection)).length, durable);
        await sendStepByStep(connection);
        assert.equal((await assertPromisesKept(connection, [stepPromises])).length, 5);
      });
    }

    for (const at of ["before-commit", "after-commit"] as const) {
      it(`${at} of a window: takes the same window again, and no other end`, async () => {
        const window = {
          runId: stepRunId,
          create: { agentId: "window" },
          firstRunSeq: 1n,
          events: stepEvents,
          finish: { state: RunState.SUCCEEDED },
        };
        const crashing = await servers.start({ file, crash: { at, transaction: 1 } });
        await assert.rejects(connectTo(crashing).ingest.appendEvents(window), isBreak);
        await crashing.ended;

        const connection = connectTo(await servers.start({ file }));
        const answer = await connection.ingest.appendEvents(window);
        assert.equal(answer.lastRunSeq, 3n);
        assert.equal(answer.seq, 4n);
        assert.equal((await assertPromisesKept(connection, [stepPromises])).length, 5);

        const other = { ...window, finish: { state: RunState.CANCELLED } };
        await assert.rejects(connection.ingest.appendEvents(other), (error) => {
          assert.ok(error instanceof ConnectError);
          assert.equal(error.code, Code.FailedPrecondition);
          assert.equal(error.findDetails(ErrorDetailSchema)[0]?.reason, Reason.RUN_FINISHED);
          return true;
        });
        assert.equal((await replay(connection)).length, 5);
      });
    }
  });
});
