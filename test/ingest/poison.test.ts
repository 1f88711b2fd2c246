/** An operation that cannot be committed is refused alone: what was committed with it goes on. */
import assert from "node:assert/strict";
import { create, toBinary } from "@bufbuild/protobuf";
import { sql } from "kysely";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import { RunResultSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import { yieldToEventLoop } from "../../src/event-loop.ts";
import type { CheckedEvent, Operation, Outcome, Producer } from "../../src/ingest/operation.ts";
import { type Engine, engineOver, openRun, readAll } from "../support/engine.ts";
import { describeJournal, type TestJournal } from "../support/journals.ts";

const namespace = "default";

/** An event as nobody has checked it. */
const eventOf = (type: string): CheckedEvent => ({
  type,
  bytes: toBinary(EventSchema, create(EventSchema, { type })),
});

function appendOf(producer: Producer, firstRunSeq: number, ...types: string[]): Operation {
  const events = types.map(eventOf);
  const { runId } = producer;
  return { kind: "append", namespace, runId, producer, firstRunSeq, events, bytes: 1 };
}

const short = (outcome: Outcome) =>
  outcome.t === "refused" ? `refused: ${outcome.refusal.reason}` : outcome.t;

describeJournal("what cannot be committed", (open, { name: backend }) => {
  let store: TestJournal;
  let engine: Engine;

  beforeEach(async () => {
    store = await open();
    engine = engineOver(store.journal);
    await openRun(engine, "first");
    const check = sql`check (types not like '%poison%')`;
    await store.journal.write((tx) =>
      // SQLite adds a constraint only with a column.
      (backend === "SQLite"
        ? sql`alter table records add column refusing integer ${check}`
        : sql`alter table records drop constraint if exists refusing, add constraint refusing ${check}`
      ).execute(tx),
    );
  });

  afterEach(async () => {
    // Its database is used again.
    if (backend === "PostgreSQL") {
      const { journal } = store;
      await journal.write((tx) => sql`alter table records drop constraint refusing`.execute(tx));
    }
    await store.remove();
  });

  const submit = (...operations: Operation[]) =>
    Promise.all(operations.map(async (one) => short(await engine.committer.submit(one))));

  const poisons = backend === "PostgreSQL" ? ["poison", "a\\0b"] : ["poison"];
  for (const poison of poisons.map((text) => text.replace("\\0", "\0"))) {
    it(`is refused alone, and nothing behind it is taken for its run (${JSON.stringify(poison)})`, async () => {
      const [a, bad, c] = [
        await openRun(engine, "a"),
        await openRun(engine, "bad"),
        await openRun(engine, "c"),
      ];
      const result = create(RunResultSchema, { state: RunState.SUCCEEDED });
      const on = { namespace, runId: "bad", producer: bad };
      const together = submit(
        ...Array.from({ length: 20 }, (_, i) => appendOf(a, i + 1, `a${i + 1}`)),
        appendOf(bad, 1, "good", poison),
        appendOf(bad, 3, "behind"),
        { kind: "finish", ...on, lastRunSeq: undefined, result },
        appendOf(c, 1, "c1"),
      );
      // The next groups are on their way before this one is answered, where that can be.
      for (let i = 0; i < 3; i++) await yieldToEventLoop();
      const next = submit(appendOf(a, 21, "a21"), appendOf(c, 2, "c2"));
      assert.deepEqual(await together, [
        ...Array.from({ length: 20 }, () => "durable"),
        ...["refused: invalid_field", "discarded", "discarded", "durable"],
      ]);
      assert.deepEqual(await next, ["durable", "durable"]);
      const again = await openRun(engine, "bad");
      assert.deepEqual(await submit(appendOf(again, 1, "good")), ["durable"]);
      const records = await readAll(store.journal);
      assert.deepEqual(
        records.map(({ seq }) => Number(seq)),
        records.map((_, index) => index + 1),
      );
      const typesOf = (runId: string) =>
        records.flatMap(({ runId: own, record }) =>
          own === runId && record.case === "event" ? [record.value.type] : [],
        );
      assert.deepEqual(
        typesOf("a"),
        Array.from({ length: 21 }, (_, i) => `a${i + 1}`),
      );
      assert.deepEqual([typesOf("bad"), typesOf("c")], [["good"], ["c1", "c2"]]);
    });
  }

  it("since we fail on it is refused alone, too", async () => {
    const [a, bad] = [await openRun(engine, "a"), await openRun(engine, "bad")];
    const broken = { ...appendOf(bad, 1, "x"), events: null } as unknown as Operation;
    const outcomes = await submit(appendOf(a, 1, "a1"), broken, appendOf(a, 2, "a2"));
    assert.deepEqual(outcomes, ["durable", "refused: internal", "durable"]);
  });
});
