import assert from "node:assert/strict";
import { once } from "node:events";
import * as http2 from "node:http2";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { follow, openRun } from "../../src/client/index.ts";
import { connectTo } from "../../src/client/node/index.ts";
import { open, Stream } from "../support/producer.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { describeWire, refusalOf } from "../support/wire.ts";

const all = { scope: { case: "all" as const, value: {} } };

describeWire("a connection that has grown old", (wire) => {
  if (!wire.isBidirectional) return;
  let server: TestServer;

  beforeEach(async () => {
    server = await startTestServer({ limits: { maxConnectionAgeMs: 2_000 }, drainTimeoutMs: 200 });
  });

  afterEach(async () => {
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  it("asks its streams to go elsewhere, and ends those that do not", async () => {
    const client = await wire.connect(server.url);
    const producer = new Stream(client);
    producer.send(open("r"));
    await producer.expect("opened");
    const frames = client.subscribe.subscribe({ filter: all })[Symbol.asyncIterator]();
    for (const expected of ["subscribed", "events", "caughtUp", "goAway"]) {
      assert.equal((await frames.next()).value.frame.case, expected);
    }
    for (const stream of [frames, producer]) {
      if (stream === producer) await producer.expect("goAway");
      const { code, detail } = await refusalOf(stream.next());
      assert.deepEqual([code, detail?.reason], [Code.Unavailable, Reason.DRAINING]);
    }
    client.close();
  });
});

describe("the client on connections that grow old", () => {
  it("goes on over many of them, and loses nothing", async () => {
    const limits = { maxConnectionAgeMs: 150 };
    const server = await startTestServer({ limits, drainTimeoutMs: 100 });
    const connection = connectTo(server.url);
    const stop = new AbortController();
    const backoff = { baseMs: 5, capMs: 20 };
    let connections = 0;
    const onState = ({ t }: { t: string }) => {
      if (t === "following") connections++;
    };
    const sender = openRun(connection.transport, { runId: "r", spec: {}, limits: { backoff } });
    const seen: bigint[] = [];
    const options = { signal: stop.signal, backoff, onState };
    let sent = 0;
    for await (const item of follow(
      connection.transport,
      { filter: all, allowMissing: true },
      options,
    )) {
      if (item.t === "records") seen.push(...item.records.map((record) => record.seq));
      // One event for each connection that the follower has had.
      for (; sent < connections && sent < 4; sent++) sender.emit({ type: "test" });
      if (seen.length === 5) break;
    }
    await sender.finish({ state: RunState.SUCCEEDED });
    assert.deepEqual(seen, [1n, 2n, 3n, 4n, 5n]);
    assert.ok(connections >= 4);
    stop.abort();
    connection.close();
    await server.remove();
  });
});

describe("a message that does not arrive", () => {
  let server: TestServer;
  let session: http2.ClientHttp2Session;

  beforeEach(async () => {
    server = await startTestServer({ limits: { messageTimeoutMs: 100 } });
    session = http2.connect(server.url);
  });

  afterEach(async () => {
    session.destroy();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  const call = (method: string, contentType: string) =>
    session.request({
      ":method": "POST",
      ":path": `/runlog.v1.${method}`,
      "content-type": contentType,
      te: "trailers",
    });

  it("is given up: half a header, half a message, half a unary request", async () => {
    const header = [0, 0, 0, 0, 9];
    for (const bytes of [header.slice(0, 3), header, [...header, 1, 2]]) {
      const stream = call("IngestService/Ingest", "application/grpc+proto");
      stream.write(Buffer.from(bytes));
      stream.resume();
      const [headers] = (await once(stream, "response")) as [http2.IncomingHttpHeaders];
      const trailers =
        headers["grpc-status"] === undefined ? (await once(stream, "trailers"))[0] : headers;
      assert.equal(Number(trailers["grpc-status"]), Code.DeadlineExceeded);
    }
    const unary = call("RunService/ListRuns", "application/json");
    unary.write("{");
    const [headers] = (await once(unary, "response")) as [http2.IncomingHttpHeaders];
    assert.notEqual(headers[":status"], 200);
  });

  it("is not one that has not begun: a stream may be silent between messages", async () => {
    const connection = connectTo(server.url);
    const sender = openRun(connection.transport, { runId: "r", spec: {} });
    await sender.opened;
    // A second passes until a Progress tells the follower that nothing has happened.
    const progressIntervalMs = 1_000;
    const frames = follow(connection.transport, { filter: all, progressIntervalMs });
    for await (const item of frames) if (item.t === "progress") break;
    sender.emit({ type: "test" });
    await sender.finish({ state: RunState.SUCCEEDED });
    assert.equal(sender.stats.reconnects, 0);
    connection.close();
  });
});
