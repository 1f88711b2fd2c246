/** A producer that has left holds nothing, however it left. */
import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { type IngestRequest, IngestRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import { RunSpecSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import { getRun } from "../../src/delivery/run-directory.ts";
import { yieldToEventLoop } from "../../src/event-loop.ts";
import { IngestStream } from "../../src/ingest/ingest-stream.ts";
import { Producer } from "../../src/ingest/operation.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { RefusedError } from "../../src/refusal.ts";
import { Connection } from "../support/connection.ts";
import { engineOver, openRun, readAll, toIngestBytes } from "../support/engine.ts";
import { describeJournal } from "../support/journals.ts";

const requestOf = (frame: Parameters<typeof create<typeof IngestRequestSchema>>[1] & object) =>
  create(IngestRequestSchema, frame);

describeJournal("holding runs", (open, { name: backend }) => {
  it("ends for runs that a stream forgets to have room for others", async () => {
    const store = await open();
    const engine = engineOver(store.journal, { maxOpenRunsPerStream: 3 });
    const counts: number[] = [];
    async function* requests(): AsyncGenerator<IngestRequest> {
      for (let i = 0; i < 10; i++) {
        const runId = `r${i}`;
        yield requestOf({ frame: { case: "open", value: { runId, create: {} } } });
        const result = { state: RunState.SUCCEEDED };
        yield requestOf({ frame: { case: "finish", value: { runId, result } } });
        await engine.committer.idle();
        counts.push(engine.committer.heldRunIds("default").length);
      }
    }
    for await (const _ of new IngestStream(engine).run(toIngestBytes(requests())));
    assert.equal(Math.max(...counts), 3);
    assert.deepEqual(engine.committer.heldRunIds("default"), []);
    await store.remove();
  });

  it("ends where the stream opens its run again and is refused", async () => {
    const store = await open();
    const engine = engineOver(store.journal);
    const answers: string[] = [];
    async function* requests(): AsyncGenerator<IngestRequest> {
      for (const agentId of ["a", "a", "b"]) {
        yield requestOf({ frame: { case: "open", value: { runId: "r", create: { agentId } } } });
      }
      await engine.committer.idle();
      assert.deepEqual(engine.committer.heldRunIds("default"), []);
      assert.equal(engine.leases.advance(Number.MAX_SAFE_INTEGER).length, 1);
    }
    for await (const frames of new IngestStream(engine).run(toIngestBytes(requests()))) {
      answers.push(...frames.map(({ t }) => t));
    }
    assert.deepEqual(answers, ["opened", "opened", "rejected"]);
    await store.remove();
  });

  /** A journal that is away until it is let in, and then takes everything. */
  const away = (journal: Journal, fate: "lost before" | "lost after") => {
    const tried = Promise.withResolvers<void>();
    const back = Promise.withResolvers<void>();
    let tries = 0;
    const meet = async <T>(commit: () => Promise<T>): Promise<T> => {
      if (++tries > 1) {
        await back.promise;
        return commit();
      }
      if (fate === "lost after") await commit();
      tried.resolve();
      throw new RefusedError({ reason: "journal_unavailable" });
    };
    const faulty: Journal = { ...journal, write: (work) => meet(() => journal.write(work)) };
    return { faulty, tried: tried.promise, back: back.resolve };
  };

  it("does not begin for a stream that is gone before its opening is committed", async () => {
    const store = await open();
    const { faulty, tried, back } = away(store.journal, "lost before");
    const engine = engineOver(faulty);
    const connection = new Connection(engine);
    await connection.send(
      requestOf({ frame: { case: "open", value: { runId: "r", create: {} } } }),
    );
    const left = new AbortController();
    const spec = create(RunSpecSchema);
    const on = { namespace: "default", runId: "created", spec, fork: undefined };
    const created = engine.committer.submit({ kind: "create", ...on }, left.signal);
    await tried;
    await connection.lose();
    left.abort();
    back();
    assert.deepEqual(await created, { t: "discarded" });
    await engine.committer.idle();
    assert.deepEqual(await readAll(store.journal), []);
    await store.remove();
  });

  it("leaves a lease where the stream is gone and its opening was durable all the same", async () => {
    const store = await open();
    const { faulty, tried, back } = away(store.journal, "lost after");
    const engine = engineOver(faulty);
    const connection = new Connection(engine);
    await connection.send(
      requestOf({ frame: { case: "open", value: { runId: "r", create: {} } } }),
    );
    await tried;
    await connection.lose();
    back();
    await engine.committer.idle();
    assert.deepEqual(engine.committer.heldRunIds("default"), []);
    const lapsed = engine.leases.advance(Number.MAX_SAFE_INTEGER);
    assert.deepEqual(
      lapsed.map(({ runId, epoch }) => [runId, epoch]),
      [["r", 1]],
    );
    await Promise.all(lapsed.map((run) => engine.committer.lose(run)));
    assert.equal((await getRun(store.journal, "default", "r")).state, RunState.LOST);
    await store.remove();
  });

  it("ends no run by a lapse that is decided after its producer has come back with its epoch", async () => {
    const store = await open();
    const engine = engineOver(store.journal);
    const openOnce = () => {
      const producer = new Producer("r");
      producer.attempt = { producerId: "p", number: 1 };
      const on = { namespace: "default", runId: "r", producer, spec: create(RunSpecSchema) };
      return { producer, opened: engine.committer.submit({ kind: "open", ...on }) };
    };
    const first = openOnce();
    await first.opened;
    engine.committer.release("default", first.producer);
    let [lapsed] = engine.leases.advance(Number.MAX_SAFE_INTEGER);
    // Both go into one commit, and then the lapse into the one behind.
    for (const turns of [0, 2]) {
      const again = openOnce();
      for (let i = 0; i < turns; i++) await yieldToEventLoop();
      await Promise.all([again.opened, engine.committer.lose(lapsed!)]);
      assert.equal(again.producer.epoch, first.producer.epoch);
      engine.committer.release("default", again.producer);
      [lapsed] = engine.leases.advance(Number.MAX_SAFE_INTEGER);
    }
    assert.equal((await getRun(store.journal, "default", "r")).state, RunState.RUNNING);
    await store.remove();
  });

  it("goes on where somebody asks for the hold that its stream had before", async () => {
    const store = await open();
    const engine = engineOver(store.journal);
    const connection = new Connection(engine);
    const opening = requestOf({ frame: { case: "open", value: { runId: "r", create: {} } } });
    await connection.send(opening);
    await engine.committer.idle();
    await connection.send(opening);
    // Behind the second opening, about the first one.
    engine.committer.checkHolders("default");
    await engine.committer.idle();
    assert.deepEqual(engine.committer.heldRunIds("default"), ["r"]);
    assert.deepEqual(engine.leases.advance(Number.MAX_SAFE_INTEGER), []);
    await connection.halfClose();
    assert.deepEqual(
      connection.frames.map(({ t }) => t),
      ["opened", "opened"],
    );
    await store.remove();
  });

  it("is over, for a producer that is quiet too, once its run was lost", async () => {
    // There is no other process that could take this one for dead.
    if (backend === "SQLite") return;
    const store = await open();
    const engine = engineOver(store.journal);
    const connection = new Connection(engine);
    await connection.send(
      requestOf({ frame: { case: "open", value: { runId: "r", create: {} } } }),
    );
    await engine.committer.idle();
    // As another node does that takes this one for dead.
    const other = engineOver(store.journal).committer;
    await other.lose({ namespace: "default", runId: "r", epoch: 1, leaseMs: 1 });
    engine.committer.checkHolders("default");
    await engine.committer.idle();
    assert.deepEqual(engine.committer.heldRunIds("default"), []);
    await connection.halfClose();
    assert.deepEqual(connection.frames.at(-1), {
      t: "rejected",
      runId: "r",
      refusal: { reason: "run_lost", runId: "r" },
    });
    await store.remove();
  });

  it("does not begin again by a question that was asked before", async () => {
    const store = await open();
    const engine = engineOver(store.journal);
    const producer = await openRun(engine, "r");
    engine.committer.checkHolders("default");
    engine.committer.release("default", producer);
    await engine.committer.idle();
    assert.deepEqual(engine.committer.heldRunIds("default"), []);
    assert.deepEqual(
      engine.leases.advance(Number.MAX_SAFE_INTEGER).map(({ runId }) => runId),
      ["r"],
    );
    await store.remove();
  });
});
