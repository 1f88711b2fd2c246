import assert from "node:assert/strict";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import type { EventFilterSchema, SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy, type SubscribeResponse } from "../../gen/runlog/v1/subscribe_pb.js";
import type { TestServer } from "../support/server.ts";
import { collect, describeService, refusalOf, type WireClient } from "../support/wire.ts";

type Filter = MessageInitShape<typeof EventFilterSchema>;

const all: Filter = { scope: { case: "all", value: {} } };
const runs = (...runIds: string[]): Filter => ({ scope: { case: "runIds", value: { runIds } } });
const family = (ancestorRunId: string, includeSelf = true, maxDepth = 0): Filter => ({
  scope: { case: "ancestor", value: { ancestorRunId, includeSelf, maxDepth } },
});

function recordsIn(frames: readonly SubscribeResponse[]): SequencedEvent[] {
  return frames.flatMap(({ frame }) => (frame.case === "events" ? frame.value.events : []));
}

function eventsOf(from: number, count: number) {
  return Array.from({ length: count }, (_, i) => ({
    type: "test",
    data: Buffer.from(`${from + i}`),
  }));
}

describeService("a subscription", (wire, startServer) => {
  let server: TestServer;
  let client: WireClient;

  beforeEach(async () => {
    server = await startServer();
    client = await wire.connect(server.url);
  });

  afterEach(async () => {
    client.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  const write = (
    runId: string,
    count: number,
    rest: { parentRunId?: string; finish?: boolean } = {},
  ) =>
    client.ingest.appendEvents({
      runId,
      create: { parentRunId: rest.parentRunId ?? "" },
      ...(count > 0 ? { firstRunSeq: 1n, events: eventsOf(1, count) } : {}),
      ...(rest.finish === true ? { finish: { state: RunState.SUCCEEDED } } : {}),
    });

  it("delivers every field of each event, between Subscribed and CaughtUp", async () => {
    const event = create(EventSchema, {
      type: "tool_call.started",
      data: Uint8Array.from([0, 1, 254, 255]),
      contentType: "application/octet-stream",
      time: timestampFromMs(1_750_000_000_123),
      attributes: { traceparent: "00-1", empty: "" },
    });
    const spec = {
      conversationId: "c",
      agentId: "a",
      agentVersion: "v",
      displayName: "ü",
      labels: { k: "v" },
      lease: { seconds: 60n, nanos: 5 },
    };
    const result = {
      state: RunState.FAILED,
      failure: { code: "x", message: "m", detail: "d" },
      suppressed: [{ code: "y" }, { code: "z" }],
      output: Uint8Array.from([9]),
      outputContentType: "text/plain",
    };
    const { epoch, lastRunSeq, seq } = await client.ingest.appendEvents({
      runId: "r",
      create: spec,
      firstRunSeq: 1n,
      events: [event],
      finish: result,
    });
    assert.deepEqual({ epoch, lastRunSeq, seq }, { epoch: 1n, lastRunSeq: 1n, seq: 2n });
    const frames = await collect(
      client.subscribe.subscribe({ filter: runs("r"), stop: StopPolicy.CAUGHT_UP }),
    );
    const [first] = frames;
    assert.equal(first?.frame.case, "subscribed");
    assert.ok(first.frame.case === "subscribed" && first.frame.value.journalId !== "");
    assert.deepEqual([first.frame.value.earliestSeq, first.frame.value.latestSeq], [1n, 3n]);
    assert.equal(frames.at(-1)?.frame.case, "caughtUp");
    const records = recordsIn(frames);
    assert.deepEqual(
      records.map((r) => [r.seq, r.runId, r.runSeq, r.record.case]),
      [
        [1n, "r", 0n, "runStarted"],
        [2n, "r", 1n, "event"],
        [3n, "r", 0n, "runFinished"],
      ],
    );
    assert.ok(records.every((record) => record.recordTime !== undefined));
    const [started, sent, finished] = records;
    assert.ok(sent?.record.case === "event");
    assert.deepEqual(
      { ...sent.record.value, data: [...sent.record.value.data] },
      { ...event, data: [...event.data] },
    );
    assert.ok(started?.record.case === "runStarted");
    const { run } = await client.runs.getRun({ runId: "r" });
    assert.deepEqual(started.record.value.spec, run?.spec);
    assert.equal(run?.spec?.lease?.nanos, 5);
    assert.equal(run?.state, RunState.FAILED);
    assert.ok(finished?.record.case === "runFinished");
    assert.deepEqual(finished.record.value.result, run.result);
    assert.deepEqual(
      run.result?.suppressed.map((failure) => failure.code),
      ["y", "z"],
    );
  });

  it("resumes after any seq, in the middle of a batch too, and from now", async () => {
    await write("r", 5);
    for (let after = 0n; after <= 6n; after++) {
      const frames: SubscribeResponse[] = await collect(
        client.subscribe.subscribe({
          filter: all,
          start: { case: "afterSeq", value: after },
          stop: StopPolicy.CAUGHT_UP,
        }),
      );
      const expected = [1n, 2n, 3n, 4n, 5n, 6n].filter((seq) => seq > after);
      assert.deepEqual(
        recordsIn(frames).map((record) => record.seq),
        expected,
      );
    }
    const live: AsyncIterator<SubscribeResponse> = client.subscribe
      .subscribe({ filter: all, start: { case: "fromNow", value: true } })
      [Symbol.asyncIterator]();
    assert.equal((await live.next()).value.frame.case, "subscribed");
    assert.equal((await live.next()).value.frame.case, "caughtUp");
    await write("s", 1);
    const news = await live.next();
    assert.deepEqual(
      recordsIn([news.value]).map((record) => record.seq),
      [7n, 8n],
    );
    await live.return?.();
  });

  it("moves the cursor of a quiet filter on by Progress", async () => {
    const abort = new AbortController();
    await write("quiet", 0);
    const frames: AsyncIterator<SubscribeResponse> = client.subscribe
      .subscribe(
        { filter: runs("quiet"), progressInterval: { seconds: 1n, nanos: 0 } },
        { signal: abort.signal },
      )
      [Symbol.asyncIterator]();
    for (const expected of ["subscribed", "events", "caughtUp"]) {
      assert.equal((await frames.next()).value.frame.case, expected);
    }
    await write("busy", 3);
    const { value } = await frames.next();
    assert.deepEqual(value.frame, { ...value.frame, case: "progress" });
    assert.equal(value.frame.case === "progress" && value.frame.value.seq, 5n);
    abort.abort();
    await refusalOf(frames.next());
  });

  it("refuses a cursor that is not this journal's", async () => {
    await write("r", 1);
    const refused = (rest: object) =>
      refusalOf(collect(client.subscribe.subscribe({ filter: all, ...rest })));
    const ahead = await refused({ start: { case: "afterSeq", value: 3n } });
    assert.equal(ahead.code, Code.OutOfRange);
    assert.equal(ahead.detail?.reason, Reason.CURSOR_AHEAD);
    assert.equal(ahead.detail.latestSeq, 2n);
    const other = await refused({ journalId: "another" });
    assert.equal(other.code, Code.OutOfRange);
    assert.equal(other.detail?.reason, Reason.JOURNAL_CHANGED);
  });

  it("refuses runs that do not exist, or waits for them where allowed", async () => {
    await write("r", 0);
    for (const filter of [runs("r", "missing"), family("missing")]) {
      const { code, detail } = await refusalOf(collect(client.subscribe.subscribe({ filter })));
      assert.equal(code, Code.NotFound);
      assert.equal(detail?.reason, Reason.RUN_NOT_FOUND);
    }
    const frames: AsyncIterator<SubscribeResponse> = client.subscribe
      .subscribe({ filter: family("later"), allowMissing: true, stop: StopPolicy.FINISHED })
      [Symbol.asyncIterator]();
    assert.equal((await frames.next()).value.frame.case, "subscribed");
    assert.equal((await frames.next()).value.frame.case, "caughtUp");
    await write("later", 2, { finish: true });
    const records: SequencedEvent[] = [];
    for (let next = await frames.next(); next.done !== true; next = await frames.next()) {
      records.push(...recordsIn([next.value]));
    }
    assert.deepEqual(
      records.map((record) => record.record.case),
      ["runStarted", "event", "event", "runFinished"],
    );
  });

  it("ends once a family, or a set of runs, has finished and is delivered", async () => {
    await write("root", 1);
    await write("child", 1, { parentRunId: "root", finish: true });
    const whole = collect(
      client.subscribe.subscribe({ filter: family("root", false), stop: StopPolicy.FINISHED }),
    );
    const both = collect(
      client.subscribe.subscribe({ filter: runs("child", "root"), stop: StopPolicy.FINISHED }),
    );
    await write("late", 2, { parentRunId: "child" });
    await client.ingest.appendEvents({ runId: "root", finish: { state: RunState.SUCCEEDED } });
    await both;
    await client.ingest.appendEvents({ runId: "late", finish: { state: RunState.SUCCEEDED } });
    const late = recordsIn(await whole).filter((record) => record.runId === "late");
    assert.equal(late.length, 4);
    const { code, detail } = await refusalOf(
      collect(client.subscribe.subscribe({ filter: all, stop: StopPolicy.FINISHED })),
    );
    assert.equal(code, Code.InvalidArgument);
    assert.equal(detail?.field, "stop");
  });

  it("covers a family of 151 runs, where 101 run ids are refused at once", async () => {
    await write("parent", 1);
    const children = Array.from({ length: 150 }, (_, i) => `child-${i}`);
    await Promise.all(children.map((runId) => write(runId, 1, { parentRunId: "parent" })));
    await write("grandchild", 1, { parentRunId: "child-7" });

    const refused = await refusalOf(
      collect(client.subscribe.subscribe({ filter: runs(...children.slice(0, 101)) })),
    );
    assert.equal(refused.code, Code.InvalidArgument);
    assert.equal(refused.detail?.reason, Reason.RUN_ID_LIMIT);
    assert.equal(refused.detail.limit, 100n);

    const runsSeen = async (filter: Filter) => {
      const frames = await collect(
        client.subscribe.subscribe({ filter, stop: StopPolicy.CAUGHT_UP }),
      );
      return new Set(recordsIn(frames).map((record) => record.runId)).size;
    };
    assert.equal(await runsSeen(family("parent", true, 1)), 151);
    assert.equal(await runsSeen(family("parent")), 152);
    assert.equal(await runsSeen(family("parent", false)), 151);
    assert.equal(await runsSeen(family("parent", false, 1)), 150);
    assert.equal(await runsSeen(runs(...children.slice(0, 100))), 100);

    const abort = new AbortController();
    const live: AsyncIterator<SubscribeResponse> = client.subscribe
      .subscribe(
        { filter: family("parent"), start: { case: "fromNow", value: true } },
        { signal: abort.signal },
      )
      [Symbol.asyncIterator]();
    await live.next();
    await live.next();
    await write("late-child", 1, { parentRunId: "child-149" });
    const { value } = await live.next();
    assert.deepEqual(
      recordsIn([value]).map((record) => record.runId),
      ["late-child", "late-child"],
    );
    abort.abort();
    await refusalOf(live.next());
  });

  it("delivers only the types that are wanted, exact or by prefix, and always facts", async () => {
    const types = ["token", "tool.started", "token", "tool.ended", "message", "token"];
    await client.ingest.appendEvents({
      runId: "r",
      create: {},
      firstRunSeq: 1n,
      events: types.map((type) => ({ type })),
      finish: { state: RunState.SUCCEEDED },
    });
    const typesOf = async (...eventTypes: string[]) => {
      const filter = { ...runs("r"), eventTypes };
      const frames = await collect(
        client.subscribe.subscribe({ filter, stop: StopPolicy.CAUGHT_UP }),
      );
      return recordsIn(frames).map(({ record }) =>
        record.case === "event" ? record.value.type : record.case,
      );
    };
    const between = (...wanted: string[]) => ["runStarted", ...wanted, "runFinished"];
    assert.deepEqual(await typesOf(), between(...types));
    assert.deepEqual(await typesOf("message"), between("message"));
    assert.deepEqual(
      await typesOf("tool.*", "message"),
      between("tool.started", "tool.ended", "message"),
    );
    assert.deepEqual(await typesOf("*"), between(...types));
    assert.deepEqual(await typesOf("tool"), between());
    const refused = async (...eventTypes: string[]) => {
      const filter = { ...all, eventTypes };
      const { code, detail } = await refusalOf(collect(client.subscribe.subscribe({ filter })));
      assert.equal(code, Code.InvalidArgument);
      return detail?.field;
    };
    assert.equal(await refused("a", ""), "filter.event_types[1]");
    assert.equal(await refused("to*ken"), "filter.event_types[0]");
    assert.equal(await refused(...new Array<string>(33).fill("a")), "filter.event_types");
  });
});
