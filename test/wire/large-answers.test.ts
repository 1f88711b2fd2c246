/** Whatever the limits let in can be read out, by clients that know no more than the limits. */
import assert from "node:assert/strict";
import { toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { ListRunsResponseSchema, RunService, RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy, SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { connectTo } from "../../src/client/node/transport.ts";
import { limitSpecs } from "../../src/limits.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { collect, describeService, type WireClient } from "../support/wire.ts";

const MiB = 1024 * 1024;

describeService("ListRuns", (wire, startServer) => {
  let server: TestServer;
  let client: WireClient;

  beforeEach(async () => {
    server = await startServer();
    client = await wire.connect(server.url);
  });

  afterEach(async () => {
    client.close();
    await server.remove();
  });

  it("ends a page of runs before it is too large for a client, and tells where to go on", async () => {
    const output = new Uint8Array(900 * 1024);
    const runIds = ["r1", "r2", "r3", "r4", "r5", "r6"];
    for (const runId of runIds) {
      const finish = {
        state: RunState.SUCCEEDED,
        output: runId > "r1" ? output : new Uint8Array(),
      };
      await client.ingest.appendEvents({ runId, create: {}, finish });
    }
    const found: string[] = [];
    const pages: number[] = [];
    for (let pageToken = ""; ; ) {
      const page = await client.runs.listRuns({ pageToken });
      pages.push(page.runs.length);
      assert.ok(toBinary(ListRunsResponseSchema, page).length < 4 * MiB);
      found.push(...page.runs.map(({ runId }) => runId));
      pageToken = page.nextPageToken;
      if (pageToken === "") break;
    }
    assert.deepEqual(found, runIds.toReversed());
    assert.deepEqual(pages, [3, 3]);
  });
});

describe("an event and a result of the largest size", () => {
  it("are read by runlog's own client on every way out", async () => {
    const maxEventBytes = limitSpecs.maxEventBytes.range.max;
    const limits = {
      maxEventBytes,
      maxAppendBytes: 2 * maxEventBytes,
      maxMessageBytes: 4 * maxEventBytes,
    };
    const server = await startTestServer({ limits });
    const connection = connectTo(server.url);
    try {
      const ingest = createClient(IngestService, connection.transport);
      const runs = createClient(RunService, connection.transport);
      const subscribe = createClient(SubscribeService, connection.transport);
      // What the event and the result take besides: type, tags, lengths, state.
      const payload = new Uint8Array(maxEventBytes - 16);
      const runId = "r".repeat(128);
      const create = {
        displayName: "n".repeat(256),
        labels: Object.fromEntries(
          Array.from({ length: 32 }, (_, i) => [`${i}`.padEnd(63, "k"), "v".repeat(256)]),
        ),
      };
      const events = [{ type: "e", data: payload }];
      await ingest.appendEvents({ runId, create, firstRunSeq: 1n, events });
      const finish = { state: RunState.SUCCEEDED, output: payload };
      async function* ending() {
        const result = { state: RunState.SUCCEEDED, output: payload };
        yield { frame: { case: "open" as const, value: { runId } } };
        yield { frame: { case: "finish" as const, value: { runId, lastRunSeq: 1n, result } } };
      }
      const answers = await collect(ingest.ingest(ending()));
      const ended = answers.at(-1)?.frame;
      assert.ok(ended?.case === "ended");
      assert.equal(ended.value.run?.result?.output.length, finish.output.length);
      assert.equal((await runs.getRun({ runId })).run?.result?.output.length, payload.length);
      const listed = (await runs.listRuns({})).runs;
      assert.deepEqual(
        listed.map(({ result }) => result?.output.length),
        [payload.length],
      );
      const filter = { scope: { case: "all" as const, value: {} } };
      const sizes: number[] = [];
      for await (const { frame } of subscribe.subscribe({ filter, stop: StopPolicy.CAUGHT_UP })) {
        if (frame.case !== "events") continue;
        for (const { record } of frame.value.events) {
          if (record.case === "event") sizes.push(record.value.data.length);
          if (record.case === "runFinished") sizes.push(record.value.result?.output.length ?? 0);
        }
      }
      assert.deepEqual(sizes, [payload.length, payload.length]);
      let read = 0;
      for (let seq = 0n; ; ) {
        const page = await subscribe.readEvents({ filter, seq });
        read += page.events.length;
        seq = page.nextSeq;
        if (page.end) break;
      }
      assert.equal(read, 3);
    } finally {
      connection.close();
      await server.remove();
    }
  });
});
