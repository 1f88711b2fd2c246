import assert from "node:assert/strict";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { EventFilterSchema } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import { eventsOf } from "../support/producer.ts";
import type { TestServer } from "../support/server.ts";
import { reasonOf, Watcher } from "../support/watcher.ts";
import { describeService, refusalOf, type WireClient } from "../support/wire.ts";

type Filter = MessageInitShape<typeof EventFilterSchema>;

const all: Filter = { scope: { case: "all", value: {} } };
const runs = (...runIds: string[]): Filter => ({ scope: { case: "runIds", value: { runIds } } });
const family = (ancestorRunId: string): Filter => ({
  scope: { case: "ancestor", value: { ancestorRunId, includeSelf: true } },
});

describeService("a call with many subscriptions", (wire, startServer) => {
  if (!wire.isBidirectional) return;
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

  const write = (runId: string, from: number, ...texts: string[]) =>
    client.ingest.appendEvents({
      runId,
      create: {},
      firstRunSeq: texts.length === 0 ? 0n : BigInt(from),
      events: eventsOf(...texts),
    });
  const seqsOf = async (watcher: Watcher, id: number): Promise<bigint[]> =>
    (await watcher.records(id)).map((record) => record.seq);

  it("delivers each one's frames under its id, as a call of its own would", async () => {
    await write("a", 1, "x", "y");
    await write("b", 1, "z");
    const watcher = new Watcher(client);
    watcher.start(7, runs("a"));
    const subscribed = await watcher.expect(7, "subscribed");
    assert.equal(subscribed.value.latestSeq, 5n);
    assert.deepEqual(await seqsOf(watcher, 7), [1n, 2n, 3n]);
    assert.equal((await watcher.expect(7, "caughtUp")).value.seq, 5n);
    watcher.start(4_000_000_000, runs("b"), { start: { case: "afterSeq", value: 4n } });
    await watcher.expect(4_000_000_000, "subscribed");
    assert.deepEqual(await seqsOf(watcher, 4_000_000_000), [5n]);
    await watcher.expect(4_000_000_000, "caughtUp");
    await write("a", 3, "news");
    assert.deepEqual(await seqsOf(watcher, 7), [6n]);
    watcher.stop(7);
    assert.equal(await watcher.ended(7), undefined);
    await write("a", 4, "not wanted any more");
    await write("b", 2, "wanted");
    assert.deepEqual(await seqsOf(watcher, 4_000_000_000), [8n]);
    watcher.cancel();
    await refusalOf(watcher.next());
  });

  it("changes a filter in place, at a seq that it tells", async () => {
    await write("a", 1, "1");
    await write("b", 1, "1");
    const watcher = new Watcher(client);
    watcher.start(1, runs("a"));
    await watcher.expect(1, "subscribed");
    assert.deepEqual(await seqsOf(watcher, 1), [1n, 2n]);
    await watcher.expect(1, "caughtUp");
    watcher.changeFilter(1, all);
    assert.equal(await watcher.filterChanged(1), 4n, "what was decided stays decided");
    await write("b", 2, "2");
    assert.deepEqual(await seqsOf(watcher, 1), [5n]);
    watcher.changeFilter(1, { ...runs("b"), eventTypes: ["other"] });
    watcher.changeFilter(1, runs("a", "b"));
    assert.deepEqual([await watcher.filterChanged(1), await watcher.filterChanged(1)], [5n, 5n]);
    await write("a", 2, "2");
    assert.deepEqual(await seqsOf(watcher, 1), [6n]);
    watcher.changeFilter(1, runs("missing"));
    assert.equal(reasonOf(await watcher.ended(1)), "RUN_NOT_FOUND");
    watcher.halfClose();
    assert.equal(await watcher.next(), undefined);
  });

  it("delivers no more than was granted, in the middle of a batch too, and then the rest", async () => {
    await write("a", 1, "1", "2", "3", "4", "5");
    const watcher = new Watcher(client);
    watcher.start(1, runs("a"), { stop: StopPolicy.CAUGHT_UP }, 2);
    await watcher.expect(1, "subscribed");
    const seqs: bigint[] = [];
    while (seqs.length < 2) seqs.push(...(await seqsOf(watcher, 1)));
    assert.deepEqual(seqs, [1n, 2n]);
    // Another one is not held up by it.
    watcher.start(2, runs("a"), { stop: StopPolicy.CAUGHT_UP });
    await watcher.expect(2, "subscribed");
    assert.equal((await seqsOf(watcher, 2)).length, 6);
    await watcher.expect(2, "caughtUp");
    assert.equal(await watcher.ended(2), undefined);
    watcher.grant(2, 10);
    watcher.grant(1, 1);
    assert.deepEqual(await seqsOf(watcher, 1), [3n]);
    watcher.grant(1, 2);
    watcher.grant(1, 4_294_967_295);
    while (seqs.length < 5) seqs.push(...(await seqsOf(watcher, 1)));
    assert.deepEqual(seqs.slice(2), [4n, 5n, 6n]);
    assert.equal((await watcher.expect(1, "caughtUp")).value.seq, 6n);
    assert.equal(await watcher.ended(1), undefined);
    watcher.halfClose();
    assert.equal(await watcher.next(), undefined);
  });

  it("leaves the others alone where one is refused: for its request, its cursor, its id, its number", async () => {
    await write("a", 1, "1");
    const watcher = new Watcher(client);
    watcher.start(1, runs("a"));
    await watcher.expect(1, "subscribed");
    await watcher.records(1);
    await watcher.expect(1, "caughtUp");
    const refused = async (id: number, reason: string, field = "") => {
      const detail = await watcher.ended(id);
      assert.deepEqual([reasonOf(detail), detail?.field], [reason, field]);
      return detail!;
    };
    watcher.start(2, runs("a", "missing"));
    await refused(2, "RUN_NOT_FOUND");
    watcher.start(2, runs(...Array.from({ length: 101 }, (_, i) => `${i}`)));
    await refused(2, "RUN_ID_LIMIT", "filter.run_ids.run_ids");
    watcher.start(2, all, { start: { case: "afterSeq", value: 99n } });
    assert.equal((await refused(2, "CURSOR_AHEAD")).latestSeq, 2n);
    watcher.start(2, all, { journalId: "another" });
    await refused(2, "JOURNAL_CHANGED");
    watcher.start(2, {});
    await refused(2, "INVALID_FIELD", "start.request.filter.scope");
    watcher.start(2, all, { stop: StopPolicy.FINISHED });
    await refused(2, "INVALID_FIELD", "stop");
    watcher.start(2, all, { journalId: "a\0b" });
    await refused(2, "INVALID_FIELD", "start.request.journal_id");
    watcher.start(1, all);
    await refused(1, "INVALID_FIELD", "subscription_id");
    for (const id of [2, 3, 4, 5])
      watcher.start(id, runs("a"), { start: { case: "fromNow", value: true } });
    const answers = new Map<string, number>();
    for (let i = 0; i < 7; i++) {
      const answer = await watcher.next();
      const { frame, subscriptionId } = answer!;
      const inner = frame.case === "response" ? frame.value.frame.case : frame.case;
      answers.set(
        `${subscriptionId} ${inner}`,
        (answers.get(`${subscriptionId} ${inner}`) ?? 0) + 1,
      );
      if (frame.case === "ended") {
        assert.equal(reasonOf(frame.value.detail), "QUOTA");
        assert.equal(frame.value.detail?.limit, 4n);
        assert.match(frame.value.message, /another call/);
      }
    }
    assert.deepEqual([...answers.keys()].sort(), [
      ...["2 caughtUp", "2 subscribed", "3 caughtUp", "3 subscribed"],
      ...["4 caughtUp", "4 subscribed", "5 ended"],
    ]);
    // Of what has ended, or never was, nothing more is said.
    watcher.stop(5);
    watcher.grant(99, 1);
    watcher.changeFilter(5, all);
    await write("a", 2, "2");
    for (let i = 0; i < 4; i++) {
      const answer = await watcher.next();
      assert.ok(answer?.frame.case === "response" && answer.frame.value.frame.case === "events");
    }
    watcher.cancel();
    await refusalOf(watcher.next());
  });

  it("ends as a whole for a frame that concerns no subscription", async () => {
    const watcher = new Watcher(client);
    watcher.start(0, all);
    const { code, detail } = await refusalOf(watcher.next());
    assert.equal(Code[code], Code[Code.InvalidArgument]);
    assert.deepEqual([detail?.reason, detail?.field], [Reason.INVALID_FIELD, "subscription_id"]);
    const other = new Watcher(client);
    other.send({ subscriptionId: 1 });
    assert.equal((await refusalOf(other.next())).detail?.field, "frame");
  });

  it("ends once half-closed and its last subscription has, each by its own stop policy", async () => {
    await write("parent", 1, "x");
    const watcher = new Watcher(client);
    watcher.start(1, family("parent"), { stop: StopPolicy.FINISHED });
    watcher.start(2, all, { stop: StopPolicy.CAUGHT_UP });
    watcher.halfClose();
    const seen: string[] = [];
    for (;;) {
      const answer = await watcher.next();
      if (answer === undefined) break;
      const { frame, subscriptionId: id } = answer;
      const inner = frame.case === "response" ? frame.value.frame.case : frame.case;
      seen.push(`${id} ${inner}`);
      if (seen.filter((one) => one.endsWith("caughtUp")).length === 2 && inner === "caughtUp") {
        await client.ingest.appendEvents({
          runId: "parent",
          finish: { state: RunState.SUCCEEDED },
        });
      }
    }
    assert.deepEqual(
      seen.filter((one) => one.startsWith("1")),
      ["1 subscribed", "1 events", "1 caughtUp", "1 events", "1 ended"],
    );
    assert.deepEqual(
      seen.filter((one) => one.startsWith("2")),
      ["2 subscribed", "2 events", "2 caughtUp", "2 ended"],
    );
  });

  it("tells each quiet subscription how far it is, and the call when the server goes away", async () => {
    await write("quiet", 1, "x");
    const watcher = new Watcher(client);
    const rest = { progressInterval: { seconds: 1n, nanos: 0 } };
    watcher.start(1, runs("quiet"), rest);
    await watcher.expect(1, "subscribed");
    await watcher.records(1);
    await watcher.expect(1, "caughtUp");
    await write("busy", 1, "y");
    assert.equal((await watcher.expect(1, "progress")).value.seq, 4n);
    // One that may deliver nothing goes no further than what it owes.
    watcher.start(2, all, rest, 1);
    const frames: string[] = [];
    let progress: bigint | undefined;
    while (progress === undefined) {
      const answer = await watcher.next();
      if (answer?.subscriptionId !== 2 || answer.frame.case !== "response") continue;
      const { frame } = answer.frame.value;
      frames.push(`${frame.case}`);
      if (frame.case === "progress") progress = frame.value.seq;
    }
    assert.deepEqual(frames, ["subscribed", "events", "progress"]);
    assert.equal(progress, 1n);
    const drained = server.drain();
    for (;;) {
      const answer = await watcher.next();
      const { subscriptionId: id, frame } = answer!;
      if (id !== 0) continue;
      assert.ok(frame.case === "response" && frame.value.frame.case === "goAway");
      break;
    }
    const gone = await refusalOf(watcher.next());
    assert.deepEqual([gone.code, gone.detail?.reason], [Code.Unavailable, Reason.DRAINING]);
    await drained;
    server = await server.restart();
  });
});
