import assert from "node:assert/strict";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { EventFilterSchema, SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy, type SubscribeManyResponse } from "../../gen/runlog/v1/subscribe_pb.js";
import { chosenSeed, randomOf } from "../crash/random.ts";
import { eventsOf } from "../support/producer.ts";
import type { TestServer } from "../support/server.ts";
import { type Asked, ManySubscriber, reasonOf } from "../support/watcher.ts";
import { collect, describeService, refusalOf, type WireClient } from "../support/wire.ts";

type Filter = MessageInitShape<typeof EventFilterSchema>;

const all: Filter = { scope: { case: "all", value: {} } };
const runs = (...runIds: string[]): Filter => ({ scope: { case: "runIds", value: { runIds } } });
const family = (ancestorRunId: string): Filter => ({
  scope: { case: "ancestor", value: { ancestorRunId, includeSelf: true } },
});
const after = (seq: bigint) => ({ case: "afterSeq" as const, value: seq });

/** What a frame is of a subscription, or of its end. */
const kindOf = ({ frame }: SubscribeManyResponse) =>
  frame.case === "response" ? frame.value.frame.case : frame.case;

/** The cursor that a frame tells; undefined where it tells none. */
function cursorIn({ frame }: SubscribeManyResponse): bigint | undefined {
  if (frame.case !== "response") return undefined;
  const { frame: inner } = frame.value;
  if (inner.case === "subscribed") return inner.value.afterSeq;
  if (inner.case === "events") return inner.value.events.at(-1)?.seq;
  return inner.case === "caughtUp" || inner.case === "progress" ? inner.value.seq : undefined;
}

const recordsIn = ({ frame }: SubscribeManyResponse): readonly SequencedEvent[] =>
  frame.case === "response" && frame.value.frame.case === "events"
    ? frame.value.frame.value.events
    : [];

describeService("a call with a list of subscriptions", (wire, startServer) => {
  let server: TestServer;
  let client: WireClient;

  beforeEach(async () => {
    server = await startServer({ limits: { maxSubscriptionsPerCall: 4 } });
    client = await wire.connect(server.url);
  });

  afterEach(async () => {
    client.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  const append = (runId: string, from: number, ...texts: string[]) =>
    client.ingest.appendEvents({ runId, firstRunSeq: BigInt(from), events: eventsOf(...texts) });
  const write = async (runId: string, ...texts: string[]) => {
    await client.runs.createRun({ runId });
    if (texts.length > 0) await append(runId, 1, ...texts);
  };
  const finish = (runId: string) =>
    client.ingest.appendEvents({ runId, finish: { state: RunState.SUCCEEDED } });

  /** What a call of its own brings. */
  const alone = async (filter: Filter): Promise<SequencedEvent[]> => {
    const frames = await collect(
      client.subscribe.subscribe({ filter, stop: StopPolicy.CAUGHT_UP }),
    );
    return frames.flatMap(({ frame }) => (frame.case === "events" ? frame.value.events : []));
  };

  /** Reads until each of these subscriptions has caught up; the records of each. */
  const untilCaughtUp = async (many: ManySubscriber, ids: readonly number[]) => {
    const waiting = new Set(ids);
    const records = new Map(ids.map((id): [number, SequencedEvent[]] => [id, []]));
    while (waiting.size > 0) {
      const answer = await many.next();
      assert.ok(answer?.frame.case === "response", `${answer?.frame.case}`);
      records.get(answer.subscriptionId)!.push(...recordsIn(answer));
      if (kindOf(answer) === "caughtUp") waiting.delete(answer.subscriptionId);
    }
    return records;
  };

  it("brings several families over one stream, as calls of their own would, and what comes later", async () => {
    for (const root of ["a", "b"]) {
      await write(root, "x", "y");
      await client.runs.createRun({ runId: `${root}-child`, spec: { parentRunId: root } });
      await append(`${root}-child`, 1, "z");
    }
    const many = new ManySubscriber(client, {
      7: { filter: family("a") },
      4000000000: { filter: family("b"), start: after(2n) },
      1: { filter: runs("later"), allowMissing: true },
    });
    const records = await untilCaughtUp(many, [7, 4_000_000_000, 1]);
    assert.deepEqual(records.get(7), await alone(family("a")));
    assert.deepEqual(records.get(4_000_000_000), await alone(family("b")));
    assert.deepEqual(records.get(1), []);
    const news = async (id: number) => {
      const [record, ...others] = await many.records(id);
      assert.deepEqual(others, []);
      return record?.seq;
    };
    await append("b-child", 2, "news");
    assert.equal(await news(4_000_000_000), 11n);
    await client.runs.createRun({ runId: "late", spec: { parentRunId: "a-child" } });
    assert.equal(await news(7), 12n);
    await client.runs.createRun({ runId: "later" });
    assert.equal(await news(1), 13n);
    many.cancel();
    await refusalOf(many.next());
  });

  const seed = chosenSeed();

  it(`resumes all of them with their cursors, whenever it broke (RUNLOG_TEST_SEED=${seed})`, async () => {
    const random = randomOf(seed);
    const filters = [family("a"), family("b"), runs("a", "c"), all];
    const roots = ["a", "b", "c"];
    const written = new Map(roots.map((root) => [root, 0]));
    for (const root of roots) await write(root);
    const cursors = filters.map(() => 0n);
    const received = filters.map((): SequencedEvent[] => []);
    const appendSome = async () => {
      for (let i = random.between(0, 6); i > 0; i--) {
        const root = roots[random.between(0, roots.length - 1)]!;
        const from = written.get(root)! + 1;
        const texts = Array.from(
          { length: random.between(1, 5) },
          (_, at) => `${root}${from + at}`,
        );
        written.set(root, from + texts.length - 1);
        await append(root, from, ...texts);
      }
    };
    const read = (answer: SubscribeManyResponse) => {
      const at = answer.subscriptionId - 1;
      const cursor = cursorIn(answer);
      assert.ok(cursor !== undefined && cursor >= cursors[at]!, `${kindOf(answer)}`);
      received[at]!.push(...recordsIn(answer));
      cursors[at] = cursor;
    };
    const resumed = (stop: StopPolicy) =>
      Object.fromEntries(
        filters.map((filter, at) => [at + 1, { filter, stop, start: after(cursors[at]!) }]),
      );
    for (let call = 0; call < 12; call++) {
      await appendSome();
      const many = new ManySubscriber(client, resumed(StopPolicy.UNSPECIFIED));
      const appended = appendSome();
      // Each sends two frames at least.
      for (let i = random.between(0, 2 * filters.length); i > 0; i--) read((await many.next())!);
      await appended;
      many.cancel();
      await refusalOf(
        (async () => {
          // Frames on their way when it broke are not taken.
          while ((await many.next()) !== undefined);
        })(),
      );
    }
    const last = new ManySubscriber(client, resumed(StopPolicy.CAUGHT_UP));
    for (let answer = await last.next(); answer !== undefined; answer = await last.next()) {
      if (answer.frame.case === "ended") assert.equal(answer.frame.value.detail, undefined);
      else read(answer);
    }
    for (const [at, filter] of filters.entries()) {
      assert.deepEqual(received[at], await alone(filter), `subscription ${at + 1}`);
    }
  });

  it("ends one as its stop policy says while the others go on, and itself with the last", async () => {
    await write("a", "x");
    await write("b", "x");
    const many = new ManySubscriber(client, {
      1: { filter: family("a"), stop: StopPolicy.FINISHED },
      2: { filter: all, stop: StopPolicy.CAUGHT_UP },
      3: { filter: runs("b"), stop: StopPolicy.FINISHED },
    });
    const seen: string[] = [];
    const until = async (expected: string) => {
      while (seen.at(-1) !== expected) {
        const answer = await many.next();
        assert.ok(answer !== undefined, `${expected} did not come: ${seen.join(", ")}`);
        if (answer.frame.case === "ended") assert.equal(answer.frame.value.detail, undefined);
        seen.push(`${answer.subscriptionId} ${kindOf(answer)}`);
      }
    };
    await until("2 ended");
    await finish("a");
    await until("1 ended");
    await append("b", 2, "still");
    await until("3 events");
    await finish("b");
    await until("3 ended");
    assert.equal(await many.next(), undefined);
    const of = (id: number) =>
      seen.filter((one) => one.startsWith(`${id}`)).map((one) => one.slice(2));
    assert.deepEqual(of(2), ["subscribed", "events", "caughtUp", "ended"]);
    assert.deepEqual(of(1), ["subscribed", "events", "caughtUp", "events", "ended"]);
  });

  it("leaves the others alone where one is refused: for its runs, its cursor, its request", async () => {
    await write("a", "1");
    const refused = async (
      request: Asked[number] | undefined,
      reason: string,
      field = "",
    ): Promise<void> => {
      const asked = { 1: { filter: runs("a") }, 2: request!, 3: { filter: all } };
      const many = new ManySubscriber(client, asked);
      const kinds: string[] = [];
      while (kinds.length < 7) {
        const answer = await many.next();
        kinds.push(`${answer?.subscriptionId} ${kindOf(answer!)}`);
        if (answer?.frame.case !== "ended") continue;
        const { detail, message } = answer.frame.value;
        assert.deepEqual([reasonOf(detail), detail?.field], [reason, field], message);
      }
      const frames = ["caughtUp", "events", "subscribed"];
      assert.deepEqual(kinds.toSorted(), [
        ...frames.map((kind) => `1 ${kind}`),
        "2 ended",
        ...frames.map((kind) => `3 ${kind}`),
      ]);
      many.cancel();
      await refusalOf(many.next());
    };
    await refused({ filter: runs("a", "missing") }, "RUN_NOT_FOUND");
    await refused({ filter: family("missing") }, "RUN_NOT_FOUND");
    await refused({ filter: all, start: after(99n) }, "CURSOR_AHEAD");
    await refused({ filter: all, journalId: "another" }, "JOURNAL_CHANGED");
    const many = runs(...Array.from({ length: 101 }, (_, i) => `${i}`));
    await refused({ filter: many }, "RUN_ID_LIMIT", "filter.run_ids.run_ids");
    await refused(undefined, "INVALID_FIELD", "subscriptions[1].request.filter.scope");
    const text = "subscriptions[1].request.journal_id";
    await refused({ filter: all, journalId: "a\0b" }, "INVALID_FIELD", text);
    const interval = { filter: all, progressInterval: { seconds: 0n, nanos: 1 } };
    const field = "subscriptions[1].request.progress_interval";
    await refused(interval, "INVALID_FIELD", field);
  });

  it("is refused as a whole for its list: an empty one, a wrong id, one too many", async () => {
    await write("a", "1");
    const request = { filter: runs("a") };
    const refused = async (ids: readonly number[], code: Code, field: string) => {
      const subscriptions = ids.map((subscriptionId) => ({ subscriptionId, request }));
      const call = client.subscribe.subscribeMany({ subscriptions })[Symbol.asyncIterator]();
      // Nothing starts before.
      const { code: refusedWith, detail } = await refusalOf(call.next());
      assert.equal(Code[refusedWith], Code[code]);
      assert.equal(detail?.field, field);
      return detail;
    };
    const invalid = Code.InvalidArgument;
    await refused([], invalid, "subscriptions");
    await refused([1, 0], invalid, "subscriptions[1].subscription_id");
    await refused([5, 1, 5, 1], invalid, "subscriptions[2].subscription_id");
    const quota = await refused([1, 2, 3, 4, 5], Code.ResourceExhausted, "");
    assert.deepEqual([quota?.reason, quota?.limit], [Reason.QUOTA, 4n]);
    const most = new ManySubscriber(client, { 1: request, 2: request, 3: request, 4: request });
    await untilCaughtUp(most, [1, 2, 3, 4]);
    most.cancel();
    await refusalOf(most.next());
  });

  it("tells each quiet one how far it is, and the call when the server goes away", async () => {
    await write("quiet", "x");
    const rest = { progressInterval: { seconds: 1n, nanos: 0 } };
    const many = new ManySubscriber(client, {
      1: { filter: runs("quiet"), ...rest },
      2: { filter: runs("silent"), allowMissing: true, ...rest },
    });
    await untilCaughtUp(many, [1, 2]);
    await write("busy", "y");
    const told = new Map<number, bigint>();
    while (told.get(1) !== 4n || told.get(2) !== 4n) {
      const answer = await many.next();
      assert.equal(kindOf(answer!), "progress");
      told.set(answer!.subscriptionId, cursorIn(answer!)!);
    }
    const drained = server.drain();
    for (;;) {
      const answer = await many.next();
      if (answer?.subscriptionId !== 0) continue;
      assert.equal(kindOf(answer), "goAway");
      break;
    }
    const gone = await refusalOf(many.next());
    assert.deepEqual([gone.code, gone.detail?.reason], [Code.Unavailable, Reason.DRAINING]);
    await drained;
    server = await server.restart();
  });
});
