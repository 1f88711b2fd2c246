/**
 * Groups that are sent before the ones before them have been answered: whatever
 * becomes of each, every event is durable once, in its run's order.
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import { yieldToEventLoop } from "../../src/event-loop.ts";
import { type Outcome, Producer } from "../../src/ingest/operation.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { lockNamespace } from "../../src/journal/namespaces.ts";
import { RefusedError } from "../../src/refusal.ts";
import { append, engineOver, eventOf, openRun, readAll } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { describeJournal } from "../support/journals.ts";

/** What becomes of a group that is sent. */
type Fate =
  | "written"
  /** Somebody else commits before it. */
  | "overtaken"
  /** It does not arrive, and there is no answer. */
  | "lost before"
  /** It is written, and its answer is lost. */
  | "lost after";

const fates = fc.oneof(
  { weight: 6, arbitrary: fc.constant<Fate>("written") },
  { weight: 3, arbitrary: fc.constant<Fate>("overtaken") },
  { weight: 1, arbitrary: fc.constantFrom<Fate>("lost before", "lost after") },
);

const runIds = ["a", "b", "c"] as const;

/**
 * Which run appends how many events next, and for how many turns nothing comes
 * after it; whether another producer takes the run for it, which waits for no
 * answer, and whether it is sent twice.
 */
const steps = fc.array(
  fc.record({
    runId: fc.constantFrom(...runIds),
    count: fc.integer({ min: 1, max: 3 }),
    takes: fc.oneof({ weight: 4, arbitrary: fc.constant(false) }, fc.constant(true)),
    repeats: fc.oneof({ weight: 4, arbitrary: fc.constant(false) }, fc.constant(true)),
    turns: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 12 })),
  }),
  { minLength: 1, maxLength: 40 },
);

/** A journal whose appends have these fates, and then no others. */
function fateful(journal: Journal, ahead: Fate[]): Journal {
  const { append: real } = journal;
  if (real === undefined) return journal;
  const unavailable = () => new RefusedError({ reason: "journal_unavailable" });
  return {
    ...journal,
    minPipelinedOps: 1,
    async append(what) {
      switch (ahead.shift()) {
        case "overtaken":
          await journal.write((tx) => lockNamespace(tx, "default"));
          return real(what);
        case "lost before":
          throw unavailable();
        case "lost after":
          await real(what);
          throw unavailable();
        default:
          return real(what);
      }
    },
  };
}

describeJournal("groups that are sent ahead", (open, { histories }) => {
  it("lose, double and reorder nothing, whatever becomes of them", async () => {
    const opened = await open();
    let journal = opened.journal;
    const hasAppend = journal.append !== undefined;
    try {
      let name = 0;
      await assertHistories(
        hasAppend ? histories(300) : 10,
        [steps, fc.array(fates, { maxLength: 30 })],
        async (plan, ahead) => {
          journal = fateful(opened.journal, [...ahead]);
          const engine = engineOver(journal);
          const prefix = `${++name}`;
          const producers = new Map(
            await Promise.all(
              runIds.map(async (id) => [id, await openRun(engine, prefix + id)] as const),
            ),
          );
          const sent = new Map<string, string[]>(runIds.map((id) => [id, []]));
          const outcomes: Promise<{ producer: Producer; outcome: Outcome }>[] = [];
          const expect = async (producer: Producer, answer: Promise<Outcome>) => ({
            producer,
            outcome: await answer,
          });
          for (const { runId, count, takes, repeats, turns } of plan) {
            const events = sent.get(runId)!;
            if (takes) {
              const producer = new Producer(prefix + runId);
              producers.set(runId, producer);
              const on = { namespace: "default", runId: prefix + runId, producer };
              const answer = engine.committer.submit({ kind: "open", ...on, spec: undefined });
              outcomes.push(expect(producer, answer));
            }
            const first = events.length + 1;
            for (let i = 0; i < count; i++) events.push(`${runId} ${events.length + 1}`);
            const added = events.slice(first - 1).map((text) => eventOf(text));
            for (let times = repeats ? 2 : 1; times > 0; times--) {
              const producer = producers.get(runId)!;
              outcomes.push(expect(producer, append(engine, producer, first, added)));
            }
            for (let turn = 0; turn < turns; turn++) await yieldToEventLoop();
          }
          const last = new Set(producers.values());
          for (const { producer, outcome } of await Promise.all(outcomes)) {
            // One that was written without an answer finds that another producer has the run.
            const isFenced = outcome.t === "refused" && outcome.refusal.reason === "fenced";
            const isDiscarded = outcome.t === "discarded";
            if ((isFenced || isDiscarded) && !last.has(producer)) continue;
            assert.ok(outcome.t === "durable" || outcome.t === "opened", JSON.stringify(outcome));
          }
          const records = await readAll(journal);
          assert.deepEqual(
            records.map(({ seq }) => Number(seq)),
            records.map((_, index) => index + 1),
          );
          for (const [runId, events] of sent) {
            const durable = records.flatMap(({ runId: id, runSeq, record }) =>
              id === prefix + runId && record.case === "event"
                ? [`${Buffer.from(record.value.data).toString()} as ${runSeq}`]
                : [],
            );
            assert.deepEqual(
              durable,
              events.map((text, index) => `${text} as ${index + 1}`),
            );
          }
        },
      );
    } finally {
      await opened.remove();
    }
  });
});
