/**
 * A producer that is alone on its run is never fenced, whatever becomes of its
 * answers, its connections and the openings that it has given up.
 */
import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { type IngestRequest, IngestRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import { yieldToEventLoop } from "../../src/event-loop.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { RefusedError } from "../../src/refusal.ts";
import { Connection } from "../support/connection.ts";
import { type Engine, engineOver, eventOf, readAll } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { describeJournal } from "../support/journals.ts";
import { startNodes } from "../support/nodes.ts";

/** What becomes of a commit. */
type Fate =
  | "written"
  /** It does not arrive, and there is no answer. */
  | "lost before"
  /** It is written, and its answer is lost. */
  | "lost after"
  /** It arrives when its producer has long gone on elsewhere. */
  | "late";

const fates = fc.array(
  fc.oneof(
    { weight: 3, arbitrary: fc.constant<Fate>("written") },
    { weight: 1, arbitrary: fc.constant<Fate>("lost before") },
    { weight: 1, arbitrary: fc.constant<Fate>("lost after") },
    { weight: 3, arbitrary: fc.constant<Fate>("late") },
  ),
  { maxLength: 12 },
);

type Step =
  /** The connection breaks, and the producer opens its run at a node. */
  | { readonly kind: "reopen"; readonly node: number }
  | { readonly kind: "append"; readonly count: number }
  /** What is late arrives. */
  | { readonly kind: "arrive" }
  /** The producer waits until its run is open. */
  | { readonly kind: "opened" }
  | { readonly kind: "turns"; readonly count: number };

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof<fc.WeightedArbitrary<Step>[]>(
    {
      weight: 3,
      arbitrary: fc.record({ kind: fc.constant("reopen" as const), node: fc.nat({ max: 2 }) }),
    },
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constant("append" as const),
        count: fc.integer({ min: 1, max: 3 }),
      }),
    },
    { weight: 1, arbitrary: fc.constant({ kind: "arrive" as const }) },
    { weight: 1, arbitrary: fc.constant({ kind: "opened" as const }) },
    {
      weight: 3,
      arbitrary: fc.record({ kind: fc.constant("turns" as const), count: fc.nat({ max: 20 }) }),
    },
  ),
  { minLength: 5, maxLength: 25 },
);

/** Decides what becomes of the commits of all nodes. */
class Fates {
  ahead: Fate[] = [];
  readonly #late: (() => void)[] = [];

  /** A journal whose commits have these fates. */
  over(journal: Journal): Journal {
    const { append } = journal;
    return {
      ...journal,
      write: (work) => this.#meet(() => journal.write(work)),
      ...(append && { append: (what) => this.#meet(() => append(what)) }),
    };
  }

  /** Lets what is late go on. */
  arrive(): void {
    for (const goOn of this.#late.splice(0)) goOn();
  }

  async #meet<T>(commit: () => Promise<T>): Promise<T> {
    const fate = this.ahead.shift();
    if (fate === "late") await new Promise<void>((resolve) => this.#late.push(resolve));
    const unavailable = new RefusedError({ reason: "journal_unavailable" });
    if (fate === "lost before") throw unavailable;
    const result = await commit();
    if (fate === "lost after") throw unavailable;
    return result;
  }
}

type Node = Pick<Engine, "journal" | "committer" | "memory" | "limits">;

/** A producer of one run that does what docs/protocol.md says. */
class Owner {
  readonly #nodes: readonly Node[];
  readonly #runId: string;
  #connection: Connection;
  #attempt = 0;
  /** run_seq of the last event that was sent on this connection; undefined while the run is not open. */
  #sent: number | undefined;
  /** Answers that have been looked at. */
  #seen = 0;
  acked = 0;
  emitted = 0;

  constructor(nodes: readonly Node[], runId: string) {
    this.#nodes = nodes;
    this.#runId = runId;
    this.#connection = new Connection(nodes[0]!);
  }

  async reopen(node: number): Promise<void> {
    this.look();
    await this.#connection.lose();
    this.#connection = new Connection(this.#nodes[node % this.#nodes.length]!);
    this.#sent = undefined;
    this.#seen = 0;
    const attempt = BigInt(++this.#attempt);
    const names = { runId: this.#runId, producerId: "producer", attempt };
    await this.#send({ frame: { case: "open", value: { ...names, create: {} } } });
  }

  /** Sends what has not been sent on this connection. */
  async flush(): Promise<void> {
    this.look();
    if (this.#sent === undefined || this.#sent === this.emitted) return;
    const first = this.#sent + 1;
    const events = Array.from({ length: this.emitted - first + 1 }, (_, i) =>
      eventOf(`e${first + i}`),
    );
    this.#sent = this.emitted;
    const value = { runId: this.#runId, firstRunSeq: BigInt(first), events };
    await this.#send({ frame: { case: "append", value } });
  }

  /** Looks at the answers that have come. */
  look(): void {
    for (; this.#seen < this.#connection.frames.length; this.#seen++) {
      const frame = this.#connection.frames[this.#seen]!;
      if (frame.t === "opened") {
        assert.ok(frame.lastRunSeq >= this.acked, "what was acknowledged is there");
        this.#sent = frame.lastRunSeq;
        this.acked = frame.lastRunSeq;
      } else if (frame.t === "ack") this.acked = frame.runSeq;
      else assert.fail(JSON.stringify(frame));
    }
  }

  async untilOpened(): Promise<void> {
    await this.#until(() => this.#sent !== undefined);
  }

  async untilDurable(): Promise<void> {
    await this.untilOpened();
    await this.flush();
    await this.#until(() => this.acked === this.emitted);
  }

  async close(): Promise<void> {
    await this.#connection.halfClose();
    this.look();
  }

  async #until(isThere: () => boolean): Promise<void> {
    await this.#connection.until(() => {
      this.look();
      return isThere();
    });
  }

  #send(request: { frame: IngestRequest["frame"] | object }): Promise<void> {
    return this.#connection.send(create(IngestRequestSchema, request as object));
  }
}

async function check(
  nodes: readonly Node[],
  runId: string,
  fate: Fates,
  plan: readonly Step[],
  ahead: readonly Fate[],
): Promise<number> {
  const owner = new Owner(nodes, runId);
  fate.ahead = [...ahead];
  await owner.reopen(0);
  for (const one of plan) {
    if (one.kind === "reopen") await owner.reopen(one.node);
    else if (one.kind === "append") {
      owner.emitted += one.count;
      await owner.flush();
    } else if (one.kind === "arrive") fate.arrive();
    else if (one.kind === "turns") for (let i = 0; i < one.count; i++) await yieldToEventLoop();
    else {
      // Its node may be the one that waits.
      fate.ahead = [];
      fate.arrive();
      await owner.untilOpened();
    }
  }
  fate.ahead = [];
  fate.arrive();
  await owner.untilDurable();
  await Promise.all(nodes.map(({ committer }) => committer.idle()));
  owner.look();
  await owner.untilDurable();
  await owner.close();
  return owner.emitted;
}

async function assertDurable(journal: Journal, runId: string, count: number): Promise<void> {
  const texts = (await readAll(journal)).flatMap(({ runId: own, runSeq, record }) =>
    own === runId && record.case === "event"
      ? [`${Buffer.from(record.value.data).toString()} as ${runSeq}`]
      : [],
  );
  assert.deepEqual(
    texts,
    Array.from({ length: count }, (_, i) => `e${i + 1} as ${i + 1}`),
  );
}

describeJournal("a producer that is alone on its run", (open, { histories }) => {
  it("is never fenced, whatever becomes of its answers and of openings that it gave up", async () => {
    const store = await open();
    const fate = new Fates();
    const node = engineOver(fate.over(store.journal));
    let name = 0;
    await assertHistories(histories(100), [steps, fates], async (plan, ahead) => {
      const runId = `run-${++name}`;
      const count = await check([node], runId, fate, plan, ahead);
      await assertDurable(store.journal, runId, count);
    });
    await store.remove();
  });
});

describe("a producer that is alone on its run and goes from node to node", () => {
  it("is never fenced, whatever becomes of its answers and of openings that it gave up", async () => {
    const fate = new Fates();
    // Nodes that beat would take fates, too.
    const running = await startNodes(3, {
      limits: { nodeTimeoutMs: 600_000 },
      faults: (journal) => fate.over(journal),
    });
    let name = 0;
    try {
      await assertHistories(100, [steps, fates], async (plan, ahead) => {
        const runId = `run-${++name}`;
        const count = await check(running.nodes, runId, fate, plan, ahead);
        await assertDurable(running.nodes[0]!.journal, runId, count);
      });
      // What a node does by itself meets fates as well, and is tried again.
      const others = running.failures.filter(
        (error) =>
          !(error instanceof RefusedError && error.refusal.reason === "journal_unavailable"),
      );
      assert.deepEqual(others, []);
    } finally {
      await running.remove();
    }
  });
});
