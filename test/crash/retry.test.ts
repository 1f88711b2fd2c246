/**
 * Retrying never doubles an event: transactions that are run again, and
 * commits whose outcome no client learnt.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { pino } from "pino";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import {
  StopPolicy,
  type SubscribeRequestSchema,
  type SubscribeResponse,
} from "../../gen/runlog/v1/subscribe_pb.js";
import type { Journal } from "../../src/journal/journal.ts";
import { RefusedError } from "../../src/refusal.ts";
import { type RunningServer, startServer } from "../../src/server/server.ts";
import { HandProducer, HandRun } from "./hand-producer.ts";
import { assertPromisesKept, type Connection, connect, replay } from "./history.ts";
import { chosenSeed, randomOf } from "./random.ts";
import { sendStepByStep, stepEvents, stepNames, stepPromises, stepRunId } from "./step-by-step.ts";

type Write = Journal["write"];

function unavailable(): RefusedError {
  return new RefusedError({ reason: "journal_unavailable" });
}

/** Ends a transaction so that nothing of it stays. */
class RolledBack extends Error {}

/** Runs `work` as a try that does not come to its commit. */
async function tryAndRollBack(journal: Journal, work: Parameters<Write>[0]): Promise<void> {
  const rolledBack = new RolledBack();
  const tried = journal.write(async (tx) => {
    await work(tx);
    throw rolledBack;
  });
  await assert.rejects(tried, (error) => error === rolledBack);
}

function assertUnavailable(error: unknown): true {
  assert.ok(error instanceof ConnectError);
  assert.equal(error.code, Code.Unavailable);
  assert.equal(error.findDetails(ErrorDetailSchema)[0]?.reason, Reason.JOURNAL_UNAVAILABLE);
  return true;
}

describe("retrying", () => {
  const seed = chosenSeed();
  const connections: Connection[] = [];
  let directory: string;
  let server: RunningServer | undefined;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-retry-"));
  });

  afterEach(async () => {
    for (const connection of connections.splice(0)) connection.close();
    await server?.drain();
    server = undefined;
    await rm(directory, { recursive: true });
  });

  /** A server whose transactions go through `write`, and which does not wait for its database. */
  async function start(
    write: (journal: Journal, work: Parameters<Write>[0]) => Promise<unknown>,
    databaseWaitMs = 0,
  ): Promise<Connection> {
    server = await startServer({
      host: "127.0.0.1",
      port: 0,
      journal: `sqlite:${join(directory, "runlog.db")}`,
      logger: pino({ level: "silent" }),
      limits: { databaseWaitMs },
      wrapJournal: (journal) => ({
        id: journal.id,
        format: journal.format,
        history: journal.history,
        db: journal.db,
        scans: journal.scans,
        write: ((work: Parameters<Write>[0]) => write(journal, work)) as Write,
        reclaimSpace: () => journal.reclaimSpace(),
        close: () => journal.close(),
      }),
    });
    return connected();
  }

  function connected(): Connection {
    const connection = connect(server!.url);
    connections.push(connection);
    return connection;
  }

  /**
   * Calls back after the n-th transaction that adds records, before its outcome is given. A
   * node's heartbeat, which comes when it will, is a transaction too, and adds none.
   */
  function afterCommit(
    transaction: number,
    onCommitted: () => void | Promise<void>,
  ): Parameters<typeof start>[0] {
    let transactions = 0;
    let endSeq = 0;
    return async (journal, work) => {
      const result = await journal.write(work);
      const rows = await journal.db.selectFrom("namespaces").select("last_seq").execute();
      const lastSeq = Math.max(0, ...rows.map((row) => row.last_seq));
      const isAdded = lastSeq > endSeq;
      endSeq = lastSeq;
      if (isAdded && ++transactions === transaction) await onCommitted();
      return result;
    };
  }

  /** Loses the outcome of the n-th transaction that adds records, which is committed. */
  function losing(transaction: number): Parameters<typeof start>[0] {
    return afterCommit(transaction, () => {
      throw unavailable();
    });
  }

  describe("a commit without an answer", () => {
    for (const [index, what] of stepNames.entries()) {
      it(`doubles nothing where that was the ${what}`, async () => {
        const connection = await start(losing(index + 1));
        await assert.rejects(sendStepByStep(connection), assertUnavailable);
        await sendStepByStep(connection);
        assert.equal((await assertPromisesKept(connection, [stepPromises])).length, 5);
      });
    }

    for (const [index, what] of stepNames.entries()) {
      it(`is a pause to producers where the server waits, and that was the ${what}`, async () => {
        const connection = await start(losing(index + 1), 20_000);
        await sendStepByStep(connection);
        assert.equal((await assertPromisesKept(connection, [stepPromises])).length, 5);
      });
    }

    it("doubles nothing where that was a window", async () => {
      const connection = await start(losing(1));
      const window = {
        runId: stepRunId,
        create: { agentId: "window" },
        firstRunSeq: 1n,
        events: stepEvents,
        finish: { state: RunState.SUCCEEDED },
      };
      await assert.rejects(connection.ingest.appendEvents(window), assertUnavailable);
      const answer = await connection.ingest.appendEvents(window);
      assert.equal(answer.lastRunSeq, 3n);
      assert.equal(answer.seq, 4n);
      assert.equal((await assertPromisesKept(connection, [stepPromises])).length, 5);
    });

    it("creates a run once", async () => {
      const connection = await start(losing(1));
      const request = { runId: "run", spec: {} };
      await assert.rejects(connection.runs.createRun(request), assertUnavailable);
      const { run } = await connection.runs.createRun(request);
      assert.equal(run?.startSeq, 1n);
      assert.equal((await replay(connection)).length, 1);
    });
  });

  describe("delivery of a commit without an answer", () => {
    const family = {
      scope: { case: "ancestor" as const, value: { ancestorRunId: stepRunId, includeSelf: true } },
    };

    /** The seqs of a subscription that ends by itself; bounded, in case it does not. */
    async function seqsOf(
      { subscribe }: Connection,
      request: MessageInitShape<typeof SubscribeRequestSchema>,
      onFrame: (frame: SubscribeResponse["frame"]) => void = () => undefined,
    ): Promise<bigint[]> {
      const seqs: bigint[] = [];
      for await (const { frame } of subscribe.subscribe(request, { timeoutMs: 15_000 })) {
        if (frame.case === "events") seqs.push(...frame.value.events.map(({ seq }) => seq));
        onFrame(frame);
      }
      return seqs;
    }

    // The finish is committed, and its answer is lost: the tail ends before it, the journal does not.
    for (const stop of [StopPolicy.FINISHED, StopPolicy.CAUGHT_UP] as const) {
      for (const afterSeq of [0n, 4n]) {
        it(`brings it to a subscriber after ${afterSeq} that stops when ${StopPolicy[stop]}`, async () => {
          const connection = await start(losing(3));
          await assert.rejects(sendStepByStep(connection), assertUnavailable);
          const request = {
            filter: family,
            stop,
            start: { case: "afterSeq" as const, value: afterSeq },
          };
          const seqs = await seqsOf(connection, request);
          assert.deepEqual(seqs, [1n, 2n, 3n, 4n, 5n].slice(Number(afterSeq)));
        });
      }
    }

    it("reaches a live subscriber where nothing else is written", async () => {
      const connection = await start(losing(3));
      const request = {
        filter: family,
        allowMissing: true,
        stop: StopPolicy.FINISHED,
        progressInterval: { seconds: 1n },
      };
      let sent: Promise<void> | undefined;
      const seqs = await seqsOf(connection, request, (frame) => {
        if (frame.case !== "subscribed") return;
        sent = assert.rejects(sendStepByStep(connected()), assertUnavailable);
        // It is awaited below; until then its failure is nobody's.
        sent.catch(() => undefined);
      });
      await sent;
      assert.deepEqual(seqs, [1n, 2n, 3n, 4n, 5n]);
    });

    it("comes before the end of a FINISHED subscription that attaches before the answer", async () => {
      // Held back until the subscription has ended, or has shown that it goes on.
      const held = Promise.withResolvers<void>();
      const committed = Promise.withResolvers<void>();
      const connection = await start(
        afterCommit(3, async () => {
          committed.resolve();
          await held.promise;
        }),
      );
      const sent = sendStepByStep(connection);
      try {
        await Promise.race([committed.promise, sent]);
        const request = {
          filter: family,
          stop: StopPolicy.FINISHED,
          progressInterval: { seconds: 1n },
        };
        const seqs = await seqsOf(connection, request, (frame) => {
          if (frame.case === "progress") held.resolve();
        });
        assert.deepEqual(seqs, [1n, 2n, 3n, 4n, 5n]);
      } finally {
        held.resolve();
        await sent;
      }
    });
  });

  it(`doubles nothing on streams that break at random commits (RUNLOG_TEST_SEED=${seed})`, async () => {
    const random = randomOf(seed);
    let failures = 40;
    let calm = false;
    const connection = await start(async (journal, work) => {
      const fate = calm || failures === 0 ? 0 : random.between(1, 8);
      // The first try is lost like one that found the database locked.
      if (fate === 1) await tryAndRollBack(journal, work);
      if (fate === 2) {
        failures--;
        await tryAndRollBack(journal, work);
        throw unavailable();
      }
      const result = await journal.write(work);
      if (fate === 3 || fate === 4) {
        failures--;
        throw unavailable();
      }
      return result;
    });
    const producers = Array.from({ length: 3 }, (_, p) => {
      const producer = new HandProducer(random);
      for (let r = 0; r < 3; r++) {
        producer.runs.push(new HandRun(`run-${p}-${r}`, random.between(100, 300), r % 2 === 0));
      }
      return producer;
    });
    let breaks = 0;
    const produce = async (producer: HandProducer): Promise<void> => {
      while (producer.runs.some((run) => !run.isEnded)) {
        await producer
          .produce(connected(), () => undefined)
          .catch((error: unknown) => {
            assertUnavailable(error);
            breaks++;
          });
      }
    };
    await Promise.all(producers.map(produce));
    calm = true;
    assert.ok(breaks > 0);
    const runs = producers.flatMap((producer) => producer.runs);
    for (const run of runs) assert.equal(run.acked, run.planned);
    const records = await assertPromisesKept(connection, runs);
    const planned = runs.reduce((sum, run) => sum + run.planned + 2, 0);
    assert.equal(records.length, planned);
  });

  it("answers as the try that was committed decides, and leaves nobody rejected", async () => {
    // The first try of each transaction finds the runs fenced and far ahead, then is rolled back.
    let decidedTwice = 0;
    const connection = await start(async (journal, work) => {
      await tryAndRollBack(journal, async (tx) => {
        await tx
          .updateTable("runs")
          .set((eb) => ({ epoch: eb("epoch", "+", 7), state: RunState.CANCELLED }))
          .execute();
        await work(tx);
        decidedTwice++;
      });
      return journal.write(work);
    });
    const producer = new HandProducer(randomOf(seed));
    producer.runs.push(new HandRun("one", 200, true), new HandRun("two", 100, false));
    await producer.produce(connection, () => undefined);
    assert.ok(decidedTwice > 10);
    for (const run of producer.runs) assert.equal(run.acked, run.planned);
    const records = await assertPromisesKept(connection, producer.runs);
    assert.equal(records.length, 304);
  });
});
