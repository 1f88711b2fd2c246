/** Quotas of the access file, over the wire. */
import assert from "node:assert/strict";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { Permission } from "../../gen/runlog/v1/auth_pb.js";
import { type ErrorDetail, Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import { follow, openRun } from "../../src/client/index.ts";
import { connectTo } from "../../src/client/node/index.ts";
import { AccessFile, allPermissions, mintingKey, tokenEntry, tokenOf } from "../support/access.ts";
import {
  append,
  eventsOf,
  finish,
  open,
  release,
  Stream,
  spec as specOfRun,
} from "../support/producer.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { describeWire, refusalOf, type WireClient, wires } from "../support/wire.ts";

const everything = { namespace: "*", permissions: allPermissions };
const all = { filter: { scope: { case: "all" as const, value: {} } } };
const limited = (quotas: object) => ({
  tokens: [tokenEntry("limited", [everything], { quotas }), tokenEntry("other", [everything])],
});

let file: AccessFile;
let server: TestServer;

async function startWith(content: object): Promise<void> {
  file = await AccessFile.make(content);
  server = await startTestServer({ accessFile: file.path });
}

async function stop(): Promise<void> {
  await server.remove();
  await file.remove();
  assert.deepEqual(server.errors, []);
}

/** What a refusal by a quota says. */
function toldBy(detail: ErrorDetail | undefined): { limit: number; isLater: boolean } {
  assert.equal(Reason[detail?.reason ?? 0], "QUOTA");
  const { limit, retryAfter } = detail!;
  assert.ok(retryAfter === undefined || durationMs(retryAfter) > 0);
  return { limit: Number(limit), isLater: retryAfter !== undefined };
}

/** The refusal of a call by a quota. */
async function quotaOf(call: Promise<unknown>): Promise<{ limit: number; isLater: boolean }> {
  const { code, detail } = await refusalOf(call);
  assert.equal(code, Code.ResourceExhausted);
  return toldBy(detail);
}

const first = <T>(items: AsyncIterable<T>) => items[Symbol.asyncIterator]().next();

describeWire("quotas", (wire) => {
  let client: WireClient;
  let other: WireClient;

  const start = async (quotas: object) => {
    await startWith(limited(quotas));
    client = await wire.connect(server.url, tokenOf("limited"));
    other = await wire.connect(server.url, tokenOf("other"));
  };

  afterEach(async () => {
    client.close();
    other.close();
    await stop();
  });

  /** A subscription that has been answered. */
  async function subscribed(from: WireClient) {
    const leave = new AbortController();
    const answers = from.subscribe.subscribe(all, { signal: leave.signal });
    const iterator = answers[Symbol.asyncIterator]();
    await iterator.next();
    return async () => {
      leave.abort();
      await iterator.next().catch(() => undefined);
    };
  }

  /** Tries until the server has noticed that somebody has left. */
  async function untilTaken(attempt: () => Promise<unknown>): Promise<void> {
    while (!(await attempt().then(Boolean, () => false))) await other.runs.listRuns({});
  }

  it("of streams refuse one more, and not another identity's", async () => {
    await start({ streams: 2 });
    const end = await subscribed(client);
    await subscribed(client);
    const refused = await quotaOf(first(client.subscribe.subscribe(all)));
    assert.deepEqual(refused, { limit: 2, isLater: true });
    const many = { subscriptions: [{ subscriptionId: 1, request: all }] };
    assert.deepEqual(await quotaOf(first(client.subscribe.subscribeMany(many))), refused);
    await (await subscribed(other))();
    // What is no stream goes on.
    await client.runs.createRun({ runId: "run" });
    await end();
    await untilTaken(() => subscribed(client));
  });

  it("of subscriptions refuse one more, and a list that never fits", async () => {
    await start({ subscriptions: 2 });
    const listOf = (count: number) => ({
      subscriptions: Array.from({ length: count }, (_, at) => ({
        subscriptionId: at + 1,
        request: all,
      })),
    });
    const never = await quotaOf(first(client.subscribe.subscribeMany(listOf(3))));
    assert.deepEqual(never, { limit: 2, isLater: false });
    const end = await subscribed(client);
    const now = await quotaOf(first(client.subscribe.subscribeMany(listOf(2))));
    assert.deepEqual(now, { limit: 2, isLater: true });
    const answers = client.subscribe.subscribeMany(listOf(1))[Symbol.asyncIterator]();
    await answers.next();
    const refused = await quotaOf(first(client.subscribe.subscribe(all)));
    assert.deepEqual(refused, { limit: 2, isLater: true });
    await end();
    await untilTaken(() => subscribed(client));
  });

  it("of runs created refuse a new one, however it is made, and none that is there", async () => {
    await start({ runs_per_minute: 2 });
    await other.runs.createRun({ runId: "source" });
    await client.runs.createRun({ runId: "a" });
    await client.runs.createRun({ runId: "a" });
    await client.ingest.appendEvents({
      runId: "b",
      create: specOfRun,
      firstRunSeq: 1n,
      events: eventsOf("event"),
    });
    const refused = { limit: 2, isLater: true };
    assert.deepEqual(await quotaOf(client.runs.createRun({ runId: "c" })), refused);
    const fork = { runId: "c", sourceRunId: "source" };
    assert.deepEqual(await quotaOf(client.runs.forkRun(fork)), refused);
    const window = { runId: "c", create: {} };
    assert.deepEqual(await quotaOf(client.ingest.appendEvents(window)), refused);
    // What is wrong with a request is said first, and costs nothing.
    const orphan = client.runs.createRun({ runId: "c", spec: { parentRunId: "nobody" } });
    assert.equal((await refusalOf(orphan)).code, Code.NotFound);
    await client.ingest.appendEvents({ runId: "b", create: specOfRun });
    await other.runs.createRun({ runId: "c" });
  });

  it("of namespaces created refuse a new one, and no run of one that is there", async () => {
    await start({ namespaces_per_hour: 1 });
    await other.runs.createRun({ namespace: "theirs", runId: "a" });
    await client.runs.createRun({ namespace: "mine", runId: "a" });
    const more = client.runs.createRun({ namespace: "more", runId: "a" });
    assert.deepEqual(await quotaOf(more), { limit: 1, isLater: true });
    await client.runs.createRun({ namespace: "mine", runId: "b" });
    await client.runs.createRun({ namespace: "theirs", runId: "b" });
    const { namespaces } = await other.admin.listNamespaces({});
    assert.deepEqual(
      namespaces.map(({ name }) => name),
      ["mine", "theirs"],
    );
  });

  it("of bytes hold back windows, and nothing else, until the rate is kept", async () => {
    await start({ bytes_per_second: 1_024 });
    await client.runs.createRun({ runId: "run" });
    const window = { runId: "run", firstRunSeq: 1n };
    const large = { ...window, events: eventsOf("x".repeat(500_000)) };
    const { epoch } = await client.ingest.appendEvents(large);
    const next = { ...window, epoch, firstRunSeq: 2n, events: eventsOf("held back") };
    let isTaken = false;
    const held = client.ingest.appendEvents(next).then(() => {
      isTaken = true;
    });
    // Nobody else waits, and neither does what brings no events.
    await other.ingest.appendEvents({
      runId: "other",
      create: {},
      firstRunSeq: 1n,
      events: eventsOf("x".repeat(500_000)),
    });
    await client.runs.cancelRun({ runId: "run" });
    await client.ingest.appendEvents({ runId: "run", epoch });
    await (await subscribed(client))();
    assert.equal(isTaken, false);
    await file.write(limited({ bytes_per_second: null }));
    // Without an open stream the next call brings the new quota.
    while (!isTaken) await client.runs.getRun({ runId: "run" });
    await held;
  });
});

const streaming = wires.filter(({ isBidirectional }) => isBidirectional);

describeWire(
  "quotas of streams in both directions",
  (wire) => {
    let client: WireClient;
    let other: WireClient;

    const start = async (quotas: object) => {
      await startWith(limited(quotas));
      client = await wire.connect(server.url, tokenOf("limited"));
      other = await wire.connect(server.url, tokenOf("other"));
    };

    afterEach(async () => {
      client.close();
      other.close();
      await stop();
    });

    it("refuse an Ingest call and a Watch call over that of streams", async () => {
      await start({ streams: 1 });
      const stream = new Stream(client);
      stream.send(open("run"));
      await stream.expect("opened");
      const refused = { limit: 1, isLater: true };
      const second = new Stream(client);
      second.send(open("more"));
      assert.deepEqual(await quotaOf(second.next()), refused);
      async function* requests() {
        yield { subscriptionId: 1, frame: { case: "start" as const, value: { request: all } } };
      }
      assert.deepEqual(await quotaOf(first(client.subscribe.watch(requests()))), refused);
      stream.send(append("run", 1, "still here"));
      await stream.expect("ack");
    });

    it("refuse one subscription of a Watch call, and the others go on", async () => {
      await start({ subscriptions: 1 });
      const { promise: left, resolve: leave } = Promise.withResolvers<void>();
      async function* requests() {
        for (const subscriptionId of [1, 2]) {
          yield { subscriptionId, frame: { case: "start" as const, value: { request: all } } };
        }
        await left;
      }
      const answers = client.subscribe.watch(requests())[Symbol.asyncIterator]();
      const told = new Set<number>();
      while (told.size < 2) {
        const { value } = await answers.next();
        if (value.frame.case === "ended") {
          assert.equal(value.subscriptionId, 2);
          assert.deepEqual(toldBy(value.frame.value.detail), { limit: 1, isLater: true });
        }
        told.add(value.subscriptionId);
      }
      leave();
    });

    it("of open runs refuse one more until one is finished, released or lost with its stream", async () => {
      await start({ open_runs: 2 });
      const stream = new Stream(client);
      stream.send(open("a"), open("b"), open("c"));
      for (const _ of ["a", "b"]) await stream.expect("opened");
      const { detail } = await stream.expect("rejected");
      assert.deepEqual(toldBy(detail), { limit: 2, isLater: true });
      stream.send(finish("a", 0));
      await stream.expect("ended");
      stream.send(open("c"));
      await stream.expect("opened");
      stream.send(release("b"));
      await stream.expect("released");
      stream.send(open("d"));
      await stream.expect("opened");
      const second = new Stream(client);
      second.send(open("e"));
      assert.deepEqual(toldBy((await second.expect("rejected")).detail).limit, 2);
      // Another identity takes a run away, and counts it itself.
      const taker = new Stream(other);
      taker.send(open("d", specOfRun));
      await taker.expect("opened");
      await stream.expectRejected(Reason.FENCED);
      second.send(open("e"));
      await second.expect("opened");
      stream.halfClose();
      while ((await stream.next()) !== undefined) {
        // What it still had to get.
      }
      second.send(open("f"));
      await second.expect("opened");
    });

    it("of bytes hold back a stream's events, and none of its answers, nor anybody else", async () => {
      await start({ bytes_per_second: 1_024 });
      const stream = new Stream(client);
      stream.send(open("run"), append("run", 1, "x".repeat(500_000)), append("run", 2, "held"));
      await stream.expect("opened");
      assert.equal((await stream.expect("ack")).runSeq, 1n);
      const busy = new Stream(other);
      busy.send(open("busy"), append("busy", 1, "x".repeat(500_000)), append("busy", 2, "y"));
      await busy.expect("opened");
      for (let acked = 0n; acked < 2n; acked = (await busy.expect("ack")).runSeq);
      await other.health.check({});
      await other.runs.cancelRun({ runId: "run", reason: "stop" });
      // What it gets now comes without its event: that has not been read.
      assert.equal((await stream.expect("cancelRequested")).reason, "stop");
      await file.write(limited({ bytes_per_second: null }));
      assert.equal((await stream.expect("ack")).runSeq, 2n);
    });
  },
  streaming,
);

describe("a quota of one who mints tokens", () => {
  afterEach(stop);

  it("is used by those that hold them too, and not widened", async () => {
    await startWith({});
    await file.write({
      minting: { keys: [await file.writeText("minting.pem", mintingKey())] },
      tokens: [tokenEntry("minter", [everything], { quotas: { streams: 2 } })],
      quotas: { streams: 100 },
    });
    server = await server.restart();
    const wire = wires.find(({ name }) => name === "gRPC (connect-node)")!;
    const minter = await wire.connect(server.url, tokenOf("minter"));
    const minted = await Promise.all(
      ["a", "b"].map(async (name) => {
        const grants = [{ permissions: [Permission.READ] }];
        const { token } = await minter.auth.mintToken({ name, grants });
        return wire.connect(server.url, token);
      }),
    );
    for (const client of minted) await first(client.subscribe.subscribe(all));
    const refused = { limit: 2, isLater: true };
    for (const client of [minter, ...minted]) {
      assert.deepEqual(await quotaOf(first(client.subscribe.subscribe(all))), refused);
    }
    for (const client of [minter, ...minted]) client.close();
  });
});

describe("clients whose identity has used up a quota", () => {
  afterEach(stop);

  it("wait, and go on once there is room", async () => {
    await startWith({
      tokens: [tokenEntry("limited", [everything])],
      quotas: { open_runs: 1, streams: 2 },
    });
    const connection = connectTo(server.url, {
      headers: () => ({ authorization: `Bearer ${tokenOf("limited")}` }),
    });
    const { transport } = connection;
    const senders = ["a", "b", "c"].map((runId) => {
      const waits: number[] = [];
      const sender = openRun(transport, {
        runId,
        spec: {},
        onState: (state) => state.t === "waiting" && waits.push(state.delayMs),
      });
      sender.emit({ type: "test" });
      return { sender, waits };
    });
    await Promise.all(senders.map(({ sender }) => sender.finish({ state: RunState.SUCCEEDED })));
    const waits = senders.flatMap((one) => one.waits);
    assert.ok(waits.length >= 2 && waits.every((ms) => ms >= 1_000), `${waits}`);
    const seen = new Set<string>();
    for await (const item of follow(transport, { ...all, stop: StopPolicy.CAUGHT_UP })) {
      if (item.t === "records") for (const { runId } of item.records) seen.add(runId);
    }
    assert.deepEqual([...seen].toSorted(), ["a", "b", "c"]);
    connection.close();
  });
});
