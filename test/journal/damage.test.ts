import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { CompiledQuery } from "kysely";
import { readEvents } from "../../src/delivery/read-events.ts";
import { subscribe } from "../../src/delivery/subscribe.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { findNamespace } from "../../src/journal/namespaces.ts";
import { openJournal } from "../../src/journal/open.ts";
import { defaultLimits } from "../../src/limits.ts";
import { type Refusal, RefusedError } from "../../src/refusal.ts";
import { chosenSeed, randomOf } from "../crash/random.ts";
import {
  append,
  type Engine,
  engineOver,
  eventOf,
  openRun,
  recordsIn,
  subscriptionTo,
} from "../support/engine.ts";
import { describeJournal, type TestJournal } from "../support/journals.ts";

const everything = { kind: "all" } as const;
const everyEvent = { scope: everything, types: undefined, kinds: undefined };

/** What a subscriber gets until it has caught up, or is refused. */
interface Delivered {
  readonly records: readonly string[];
  readonly error: unknown;
}

async function deliver({ journal }: Engine, afterSeq = 0, runIds?: string[]): Promise<Delivered> {
  const records: string[] = [];
  const { tails, ...options } = engineOver(journal, { tailBytes: 0 });
  const scope = runIds === undefined ? everything : ({ kind: "runs", runIds } as const);
  const subscription = subscriptionTo(scope, {
    start: { t: "after", seq: afterSeq },
    stop: "caught_up",
  });
  try {
    const { signal } = new AbortController();
    for await (const frame of subscribe({ tails, ...options }, subscription, signal)) {
      for (const { seq, runId, record } of recordsIn(frame)) {
        const what = record.case === "event" ? Buffer.from(record.value.data) : record.case;
        records.push(`${seq} ${runId} ${what}`);
      }
    }
    return { records, error: undefined };
  } catch (error) {
    return { records, error };
  }
}

function refusalIn(error: unknown): Refusal {
  assert.ok(error instanceof RefusedError, `it was not refused: ${String(error)}`);
  return error.refusal;
}

/** seq 1: a; 2 and 3: its events; 4: b; 5 and 6: its events; 7: another one of a's. */
async function fill(engine: Engine) {
  const a = await openRun(engine, "a");
  await append(engine, a, 1, [eventOf("a1"), eventOf("a2")]);
  const b = await openRun(engine, "b");
  await append(engine, b, 1, [eventOf("b1"), eventOf("b2")]);
  await append(engine, a, 3, [eventOf("a3")]);
  return { a, b };
}

const written = [
  ...["1 a runStarted", "2 a a1", "3 a a2", "4 b runStarted", "5 b b1", "6 b b2", "7 a a3"],
];

describeJournal("a damaged record", (open) => {
  let opened: TestJournal;
  let journal: Journal;
  let engine: Engine;

  beforeEach(async () => {
    opened = await open();
    journal = opened.journal;
    engine = engineOver(journal);
  });

  afterEach(async () => {
    await opened.remove();
  });

  /** Changes the record with seqs 5 and 6 as a disk might. */
  const damage = (set: string) =>
    journal.write((tx) =>
      tx.executeQuery(CompiledQuery.raw(`update records set ${set} where last_seq = 6`)),
    );
  const flipData = async () => {
    const record = await journal.db
      .selectFrom("records")
      .select("data")
      .where("last_seq", "=", 6)
      .executeTakeFirstOrThrow();
    const data = Buffer.from(record.data);
    data[data.length - 1]! ^= 1;
    await journal.write((tx) =>
      tx.updateTable("records").set({ data }).where("last_seq", "=", 6).execute(),
    );
  };

  const ways: Readonly<Record<string, () => Promise<unknown>>> = {
    "its data": flipData,
    "its place in the run": () => damage("first_run_seq = 3"),
    "its types": () => damage("types = 'tesu'"),
    "its run": () => damage("run_key = run_key - 3"),
    "its root": () => damage("root_key = root_key - 3"),
    "its checksum": () => damage("checksum = checksum + 1"),
  };
  for (const [what, change] of Object.entries(ways)) {
    it(`in ${what} ends a subscription behind what lies before it, and names its seqs`, async () => {
      await fill(engine);
      await change();
      const { records, error } = await deliver(engine);
      assert.deepEqual(records, written.slice(0, 4));
      assert.deepEqual(refusalIn(error), { reason: "data_loss", firstSeq: 5, lastSeq: 6 });
      assert.deepEqual(await deliver(engine, 6), { records: written.slice(6), error: undefined });
    });
  }

  it("is refused to who follows its run, and to nobody else", async () => {
    await fill(engine);
    await flipData();
    const { records, error } = await deliver(engine, 0, ["b"]);
    assert.deepEqual(records, written.slice(3, 4));
    assert.equal(refusalIn(error).reason, "data_loss");
    const others = await deliver(engine, 0, ["a"]);
    assert.equal(others.error, undefined);
    assert.equal(others.records.length, 4);
  });

  it("ends a page of ReadEvents before it, in both directions, and is refused by the next", async () => {
    await fill(engine);
    await flipData();
    const request = { namespace: "default", filter: everyEvent, maxEvents: 100 };
    const forward = await readEvents(engine, { ...request, direction: "forward", seq: 0 });
    assert.deepEqual([forward.items.length, forward.nextSeq, forward.end], [4, 4, false]);
    const backward = await readEvents(engine, { ...request, direction: "backward", seq: 0 });
    assert.deepEqual([backward.items.length, backward.nextSeq, backward.end], [1, 7, false]);
    for (const [direction, seq] of [
      ["forward", 4],
      ["backward", 7],
    ] as const) {
      await assert.rejects(readEvents(engine, { ...request, direction, seq }), (error) => {
        assert.deepEqual(refusalIn(error), { reason: "data_loss", firstSeq: 5, lastSeq: 6 });
        return true;
      });
    }
  });

  it("refuses the run whose events are sent again, and no other operation of the commit", async () => {
    const { a, b } = await fill(engine);
    await flipData();
    const [again, next] = await Promise.all([
      append(engine, b, 2, [eventOf("b2"), eventOf("b3")]),
      append(engine, a, 4, [eventOf("a4")]),
    ]);
    assert.equal(again.t === "refused" && again.refusal.reason, "data_loss");
    assert.equal(next.t, "durable");
  });

  it("that is gone though nothing was ever deleted is a hole, and no silence", async () => {
    await fill(engine);
    await journal.write((tx) => tx.deleteFrom("records").where("last_seq", "=", 6).execute());
    const { records, error } = await deliver(engine);
    assert.deepEqual(records, written.slice(0, 4));
    assert.deepEqual(refusalIn(error), { reason: "data_loss", firstSeq: 5, lastSeq: 6 });
    await journal.write((tx) => tx.deleteFrom("records").where("last_seq", "=", 7).execute());
    assert.equal(refusalIn((await deliver(engine, 6)).error).reason, "data_loss");
  });

  it("is none where an earlier version wrote it without a checksum", async () => {
    await fill(engine);
    await damage("checksum = null");
    assert.deepEqual(await deliver(engine), { records: written, error: undefined });
  });
});

describe("a SQLite file of which one byte was changed", () => {
  it("reads what was written, or less and an error, and never anything else", async () => {
    const directory = await mkdtemp(join(tmpdir(), "runlog-damage-"));
    const file = join(directory, "runlog.db");
    const settings = { ...defaultLimits, lockTimeoutMs: 100 };
    const random = randomOf(chosenSeed());
    try {
      const first = await openJournal(`sqlite:${file}`, settings);
      const engine = engineOver(first);
      await fill(engine);
      // Several pages of records, some of which do not fit into one.
      const c = await openRun(engine, "c");
      for (let n = 1; n <= 40; n++) await append(engine, c, n, [eventOf("x".repeat(n * 150))]);
      const whole = await deliver(engine);
      assert.equal(whole.error, undefined);
      const namespace = await findNamespace(first.db, "default");
      await first.close();
      const good = await readFile(file);
      let noticed = 0;
      for (let round = 0; round < 24; round++) {
        const at = random.between(100, good.length - 1);
        const bad = Buffer.from(good);
        bad[at]! ^= 1 << random.between(0, 7);
        await writeFile(file, bad);
        const journal = await openJournal(`sqlite:${file}`, settings).catch(() => undefined);
        if (journal === undefined) continue;
        try {
          const read = findNamespace(journal.db, "default").catch(() => undefined);
          // What counts and names records has no checksum.
          if (!isDeepStrictEqual(await read, namespace)) continue;
          const { records, error } = await deliver(engineOver(journal));
          const context = `seed ${random.seed}, byte ${at}, ${String(error)}`;
          assert.deepEqual(records, whole.records.slice(0, records.length), context);
          assert.ok(error !== undefined || records.length === whole.records.length, context);
          if (error !== undefined) noticed++;
        } finally {
          await journal.close();
        }
      }
      assert.ok(noticed > 0, "no change was noticed");
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});
