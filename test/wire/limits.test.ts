/** Limits that an operator has set: enforced, and told with the refusal. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, createClient } from "@connectrpc/connect";
import { type ErrorDetail, Reason } from "../../gen/runlog/v1/error_pb.js";
import { type IngestLimits, IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { connectTo } from "../../src/client/node/index.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { append, eventsOf, finish, open, type Request, Stream } from "../support/producer.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { describeService, refusalOf, type WireClient } from "../support/wire.ts";

const limits = {
  maxEventBytes: 500,
  maxAppendBytes: 900,
  maxMessageBytes: 4_000,
  maxUnackedEvents: 7,
  maxOpenRunsPerStream: 2,
  maxLabels: 1,
};
const labels = { a: "1", b: "2" };

const assertTold = (told: IngestLimits | undefined) =>
  assert.deepEqual(
    [told?.maxEventBytes, told?.maxAppendBytes, told?.maxUnackedEvents],
    [500n, 900n, 7n],
  );
const about = (detail: ErrorDetail | undefined) => [
  Reason[detail?.reason ?? 0],
  detail?.field,
  detail?.limit,
];

describeService("limits that were set", (wire, startServer) => {
  let server: TestServer;
  let client: WireClient;

  beforeEach(async () => {
    server = await startServer({ limits });
    client = await wire.connect(server.url);
  });

  afterEach(async () => {
    client.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  it("reach producers of windows, and refusals name the limit", async () => {
    assertTold((await client.ingest.appendEvents({ runId: "r", create: {} })).limits);
    const refused = async (request: object) => {
      const { code, detail } = await refusalOf(client.ingest.appendEvents(request));
      return [Code[code], ...about(detail)];
    };
    const window = { runId: "r", epoch: 1n, firstRunSeq: 1n };
    const event = { ...window, events: eventsOf("good", "x".repeat(500)) };
    assert.deepEqual(await refused(event), ["InvalidArgument", "TOO_LARGE", "events[1]", 500n]);
    const whole = {
      ...window,
      events: eventsOf("x".repeat(400), "y".repeat(400), "z".repeat(400)),
    };
    assert.deepEqual(await refused(whole), ["InvalidArgument", "TOO_LARGE", "events", 900n]);
    assert.deepEqual(await refused({ runId: "s", create: { labels } }), [
      "InvalidArgument",
      "INVALID_FIELD",
      "create.labels",
      1n,
    ]);
    const fits = { ...window, events: eventsOf("x".repeat(400), "y".repeat(400)) };
    assert.equal((await client.ingest.appendEvents(fits)).lastRunSeq, 2n);
  });

  it("refuse a run with too many labels, and take one with as many as they allow", async () => {
    const { code, detail } = await refusalOf(client.runs.createRun({ spec: { labels } }));
    assert.deepEqual(
      [Code[code], ...about(detail)],
      ["InvalidArgument", "INVALID_FIELD", "spec.labels", 1n],
    );
    await client.runs.createRun({ spec: { labels: { a: "1" } } });
  });

  if (!wire.isBidirectional) return;

  it("reach producers with streams, and refusals of one run name the limit", async () => {
    const stream = new Stream(client);
    const opened = async () => {
      stream.send(open("r"));
      assertTold((await stream.expect("opened")).limits);
    };
    const refused = async (request: Request, reason: Reason, field: string, limit: bigint) => {
      stream.send(request);
      assert.deepEqual(about(await stream.expectRejected(reason)), [Reason[reason], field, limit]);
    };
    await opened();
    await refused(append("r", 1, "x".repeat(500)), Reason.TOO_LARGE, "append.events[0]", 500n);
    await opened();
    const three = ["x", "y", "z"].map((text) => text.repeat(400));
    await refused(append("r", 1, ...three), Reason.TOO_LARGE, "append.events", 900n);
    await refused(open("s", { labels }), Reason.INVALID_FIELD, "open.create.labels", 1n);
    await opened();
    stream.send(append("r", 1, "good"));
    assert.equal((await stream.expect("ack")).runSeq, 1n);
  });

  it("refuse one open run too many, leave the others alone, and give way when one ends", async () => {
    const stream = new Stream(client);
    stream.send(open("a"), open("b"));
    await stream.expect("opened");
    await stream.expect("opened");
    stream.send(open("c"));
    assert.deepEqual(about(await stream.expectRejected(Reason.QUOTA)), ["QUOTA", "", 2n]);
    stream.send(append("c", 1, "x"));
    assert.equal((await stream.expectRejected(Reason.QUOTA)).limit, 2n);
    stream.send(append("a", 1, "x"));
    assert.equal((await stream.expect("ack")).runId, "a");
    stream.send(finish("a", 1));
    await stream.expect("ended");
    stream.send(open("c"));
    assert.equal((await stream.expect("opened")).runId, "c");
    stream.send(append("c", 1, "x"), append("b", 1, "x"));
    stream.halfClose();
    const acked: string[] = [];
    for (let next = await stream.next(); next !== undefined; next = await stream.next()) {
      assert.equal(next.case, "ack");
      if (next.case === "ack") acked.push(next.value.runId);
    }
    assert.deepEqual(acked.sort(), ["b", "c"]);
  });
});

describe("an Ingest stream", () => {
  it("remembers no run id that is none, however many come", async () => {
    const server = await startTestServer({ limits: { maxOpenRunsPerStream: 1 } });
    const connection = connectTo(server.url);
    const requests: Request[] = [open("r")];
    // Held, the first of them would take the only place.
    for (let i = 0; i < 3; i++) requests.push(open(`${i}`.repeat(100_000)));
    requests.push(append("x".repeat(100_000), 1, "x"));
    const almostAnId = `4${"😀".repeat(100)}`;
    requests.push(open(almostAnId), append("r", 1, "x"));
    async function* sent(): AsyncGenerator<Request> {
      yield* requests;
    }
    try {
      const answers: string[] = [];
      const client = createClient(IngestService, connection.transport);
      for await (const { frame } of client.ingest(sent())) {
        assert.ok(frame.case !== undefined);
        const { runId } = frame.value as { runId: string };
        assert.ok(runId.length <= 1_025, "the answer repeats the whole id");
        // A producer knows what it sent; cut, an id must not be another run's.
        assert.ok(runId === "r" || runId === almostAnId || runId.endsWith("…"), runId);
        const reason = frame.case === "rejected" ? Reason[frame.value.detail?.reason ?? 0] : "";
        answers.push(`${frame.case} ${runId[0]} ${reason}`.trimEnd());
      }
      assert.deepEqual(answers.sort(), [
        "ack r",
        "opened r",
        "rejected 0 INVALID_FIELD",
        "rejected 1 INVALID_FIELD",
        "rejected 2 INVALID_FIELD",
        "rejected 4 INVALID_FIELD",
        "rejected x INVALID_FIELD",
      ]);
    } finally {
      connection.close();
      await server.remove();
    }
  });
});

describe("a run id that is too long", () => {
  it("is refused as it is, and never taken for the run whose id it begins with", async () => {
    const server = await startTestServer();
    const connection = connectTo(server.url);
    const id = "r".repeat(128);
    async function* sent(): AsyncGenerator<Request> {
      yield open(id);
      yield { frame: { case: "release", value: { runId: `${id}x` } } };
      yield open(`${id}x`);
      yield append(`${id}y`, 1, "x");
      yield finish(`${id}z`, 0);
      yield append(id, 1, "x");
    }
    try {
      const answers: string[] = [];
      const client = createClient(IngestService, connection.transport);
      for await (const { frame } of client.ingest(sent())) {
        const { runId } = frame.value as { runId: string };
        const field = frame.case === "rejected" ? frame.value.detail?.field : "";
        answers.push(`${frame.case} ${field} ${runId === id}`);
      }
      assert.deepEqual(answers.sort(), [
        "ack  true",
        "opened  true",
        "rejected append.run_id false",
        "rejected finish.run_id false",
        "rejected open.run_id false",
        "rejected release.run_id false",
      ]);
    } finally {
      connection.close();
      await server.remove();
    }
  });
});

describe("max-unacked-events", () => {
  const events = 120;
  const payload = new Uint8Array(100 * 1024);

  /**
   * Sends while the journal takes nothing, until the stream is not read any
   * more; then lets it go on. Returns how many events had left by then, and the
   * last acknowledged one.
   */
  const sendAgainstSlowJournal = async (
    maxUnackedEvents: number,
  ): Promise<{ sent: number; acked: bigint }> => {
    const gate = Promise.withResolvers<void>();
    const wrapJournal = (journal: Journal): Journal => ({
      id: journal.id,
      format: journal.format,
      history: journal.history,
      db: journal.db,
      scans: journal.scans,
      reclaimSpace: () => journal.reclaimSpace(),
      close: () => journal.close(),
      write: async (work) => {
        await gate.promise;
        return journal.write(work);
      },
    });
    const server = await startTestServer({ limits: { maxUnackedEvents }, wrapJournal });
    const connection = connectTo(server.url);
    let sent = 0;
    async function* requests(): AsyncGenerator<Request> {
      yield open("r");
      for (; sent < events; sent++) {
        const event = { type: "test", data: payload };
        const value = { runId: "r", firstRunSeq: BigInt(sent + 1), events: [event] };
        yield { frame: { case: "append", value } };
      }
    }
    try {
      const calls = createClient(IngestService, connection.transport).ingest(requests());
      const reading = (async () => {
        let acked = 0n;
        for await (const { frame } of calls) if (frame.case === "ack") acked = frame.value.runSeq;
        return acked;
      })();
      let before = -1;
      while (before !== sent || sent === 0) {
        before = sent;
        await sleep(400);
      }
      gate.resolve();
      return { sent: before, acked: await reading };
    } finally {
      gate.resolve();
      connection.close();
      await server.remove();
    }
  };

  it("stops the reading of a stream, until its events are durable", async () => {
    const free = await sendAgainstSlowJournal(1_000);
    assert.deepEqual(free, { sent: events, acked: BigInt(events) });
    // What was read, one stream's window of 4 MiB, and a little on the way.
    const held = await sendAgainstSlowJournal(10);
    assert.ok(held.sent >= 10 && held.sent < 70, `${held.sent} events were sent`);
    assert.equal(held.acked, BigInt(events));
  });
});
