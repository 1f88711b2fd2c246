import assert from "node:assert/strict";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { RecordKind } from "../../gen/runlog/v1/record_pb.js";
import { StopPolicy, type SubscribeRequest } from "../../gen/runlog/v1/subscribe_pb.js";
import { eventsOf } from "../support/producer.ts";
import type { TestServer } from "../support/server.ts";
import { Watcher } from "../support/watcher.ts";
import { collect, describeService, refusalOf, type WireClient } from "../support/wire.ts";

type Start = SubscribeRequest["start"];

const all = { scope: { case: "all" as const, value: {} } };
const runs = (...runIds: string[]) => ({ scope: { case: "runIds" as const, value: { runIds } } });
const family = (ancestorRunId: string) => ({
  scope: { case: "ancestor" as const, value: { ancestorRunId, includeSelf: true } },
});
const last = (value: number): Start => ({ case: "lastCount", value });

describeService("where a subscription starts", (wire, startServer) => {
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

  const write = (runId: string, firstRunSeq: number, ...types: string[]) =>
    client.ingest.appendEvents({
      runId,
      create: {},
      firstRunSeq: BigInt(firstRunSeq),
      events: types.map((type) => ({ ...eventsOf("x")[0]!, type })),
    });

  /** The seq that Subscribed told, and those of the records that followed. */
  const read = async (filter: object, start: Start, stop = StopPolicy.CAUGHT_UP) => {
    const request = { filter, start, stop };
    const frames = await collect(client.subscribe.subscribe(request as never));
    const [first] = frames;
    const afterSeq = first?.frame.case === "subscribed" ? Number(first.frame.value.afterSeq) : -1;
    const records = frames.flatMap(({ frame }) =>
      frame.case === "events" ? frame.value.events : [],
    );
    return { afterSeq, seqs: records.map(({ seq }) => Number(seq)).join(" "), records };
  };

  it("is a seq that the first frame tells, whatever was asked for", async () => {
    await write("a", 1, "t", "t", "u");
    await write("b", 1, "t", "u");
    const expected: [object, Start, number, string][] = [
      [all, { case: undefined }, 0, "1 2 3 4 5 6 7"],
      [all, { case: "afterSeq", value: 3n }, 3, "4 5 6 7"],
      [all, { case: "fromNow", value: true }, 7, ""],
      [all, last(0), 7, ""],
      [all, last(1), 6, "7"],
      [all, last(5), 2, "3 4 5 6 7"],
      [all, last(1_000), 0, "1 2 3 4 5 6 7"],
      [runs("a"), last(2), 2, "3 4"],
      [family("b"), last(2), 5, "6 7"],
      [{ ...all, eventTypes: ["t"], kinds: [RecordKind.EVENT] }, last(2), 2, "3 6"],
      [{ ...all, kinds: [RecordKind.LIFECYCLE] }, last(1), 4, "5"],
      [{ ...all, eventTypes: ["none"], kinds: [RecordKind.EVENT] }, last(9), 7, ""],
      [all, { case: "fromTime", value: timestampFromMs(0) } as Start, 0, "1 2 3 4 5 6 7"],
      [all, { case: "fromTime", value: timestampFromMs(4e12) } as Start, 7, ""],
    ];
    for (const [filter, start, afterSeq, seqs] of expected) {
      const got = await read(filter, start);
      assert.deepEqual([got.afterSeq, got.seqs], [afterSeq, seqs], JSON.stringify(start.case));
    }
  });

  it("is the first record of a time, and goes on live from there", async () => {
    await write("a", 1, "t");
    const [started] = (await read(all, { case: undefined })).records;
    const startedMs = timestampMs(started!.recordTime!);
    for (let now = startedMs; now <= startedMs; ) {
      const { seq } = await client.runs.signalRun({ runId: "a", event: eventsOf("s")[0]! });
      const { records } = await read(all, { case: "afterSeq", value: seq - 1n });
      now = timestampMs(records[0]!.recordTime!);
    }
    const { records } = await read(all, { case: undefined });
    const later = records.filter(({ recordTime }) => timestampMs(recordTime!) > startedMs);
    // Just behind the earlier ones.
    const { seconds, nanos } = started!.recordTime!;
    const value = { seconds, nanos: nanos + 1 };
    const got = await read(all, { case: "fromTime", value } as Start);
    assert.equal(got.seqs, later.map(({ seq }) => seq).join(" "));
    assert.equal(got.afterSeq, Number(later[0]!.seq) - 1);
  });

  it("is there too where nothing was written yet", async () => {
    for (const start of [last(5), { case: "fromTime", value: timestampFromMs(5) } as Start]) {
      const request = { namespace: "empty", filter: all, start, stop: StopPolicy.CAUGHT_UP };
      const [first] = await collect(client.subscribe.subscribe(request as never));
      assert.equal(first?.frame.case, "subscribed");
    }
  });

  it("is refused where more is asked for than may be", async () => {
    const { code, detail } = await refusalOf(read(all, last(1_001)));
    assert.deepEqual([code, detail?.reason], [Code.InvalidArgument, Reason.INVALID_FIELD]);
    assert.deepEqual([detail?.field, detail?.limit], ["last_count", 1_000n]);
  });

  it("reaches each subscription of a call", async () => {
    if (!wire.isBidirectional) return;
    await write("a", 1, "t", "t", "u");
    const watcher = new Watcher(client);
    watcher.start(1, all, { start: { case: "lastCount", value: 2 } });
    assert.equal((await watcher.expect(1, "subscribed")).value.afterSeq, 2n);
    assert.equal((await watcher.records(1)).length, 2);
    await watcher.expect(1, "caughtUp");
    watcher.stop(1);
    watcher.halfClose();
    assert.equal(await watcher.ended(1), undefined);
    assert.equal(await watcher.next(), undefined);
  });
});
