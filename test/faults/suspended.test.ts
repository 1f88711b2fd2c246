import assert from "node:assert/strict";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import type { IngestResponse } from "../../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { connect, eventAt } from "../crash/history.ts";
import { ServerProcesses } from "../crash/server-process.ts";
import { giveBackDatabase, takeDatabase } from "../support/postgres.ts";

/** An Ingest stream that is written and read by hand. */
class Stream {
  readonly #answers: AsyncIterator<IngestResponse>;
  readonly #requests: object[] = [];
  #wake: (() => void) | undefined;

  constructor(connection: ReturnType<typeof connect>) {
    const requests = this.#all() as AsyncIterable<never>;
    this.#answers = connection.ingest.ingest(requests)[Symbol.asyncIterator]();
  }

  async *#all(): AsyncGenerator<object> {
    for (;;) {
      yield* this.#requests.splice(0);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        if (this.#requests.length > 0) resolve();
      });
    }
  }

  send(frame: object): void {
    this.#requests.push({ frame });
    this.#wake?.();
  }

  async next(): Promise<IngestResponse["frame"]> {
    const { value, done } = await this.#answers.next();
    assert.ok(done !== true, "the stream has ended");
    return value.frame;
  }
}

describe("a node that is suspended past its lease", () => {
  const nodes = new ServerProcesses();
  const connections: ReturnType<typeof connect>[] = [];
  let journal: string;

  before(async () => {
    journal = await takeDatabase();
  });

  after(async () => {
    for (const connection of connections) connection.close();
    await nodes.endAll();
    await giveBackDatabase(journal);
  });

  it("acknowledges nothing as a fenced owner, and reports the lost events", async () => {
    const limits = { nodeTimeoutMs: 1_000, defaultLeaseMs: 1_000 };
    const sleeper = await nodes.start({ journal, limits });
    const other = await nodes.start({ journal, limits });
    const connectTo = (url: string) => {
      const connection = connect(url);
      connections.push(connection);
      return connection;
    };
    const stream = new Stream(connectTo(sleeper.url));
    const spec = { agentId: "sleeper" };
    for (const runId of ["taken", "left"]) {
      stream.send({ case: "open", value: { runId, create: spec } });
      assert.equal((await stream.next()).case, "opened");
      stream.send({
        case: "append",
        value: { runId, firstRunSeq: 1n, events: [eventAt(runId, 1)] },
      });
      assert.equal((await stream.next()).case, "ack");
    }

    sleeper.suspend();
    // It is in its socket when the node wakes up.
    const late = (runId: string) => ({
      case: "append",
      value: { runId, firstRunSeq: 2n, events: [eventAt(runId, 2)] },
    });
    stream.send(late("taken"));
    const { ingest, subscribe } = connectTo(other.url);
    const window = await ingest.appendEvents({
      runId: "taken",
      firstRunSeq: 2n,
      events: [eventAt("elsewhere", 2)],
      finish: { state: RunState.SUCCEEDED },
    });
    assert.equal(window.lastRunSeq, 2n);
    // Others look after its runs: one without a producer is lost.
    const filter = { scope: { case: "runIds" as const, value: { runIds: ["left"] } } };
    for await (const { frame } of subscribe.subscribe({ filter })) {
      const records = frame.case === "events" ? frame.value.events : [];
      const end = records.find(({ record }) => record.case === "runFinished")?.record;
      if (end?.case !== "runFinished") continue;
      assert.equal(end.value.result?.state, RunState.LOST);
      break;
    }
    sleeper.resume();

    stream.send(late("left"));
    const reasons = new Map<string, Reason | undefined>();
    while (reasons.size < 2) {
      const frame = await stream.next();
      assert.ok(frame.case === "rejected", `${frame.case}`);
      reasons.set(frame.value.runId, frame.value.detail?.reason);
    }
    assert.equal(reasons.get("taken"), Reason.FENCED);
    assert.equal(reasons.get("left"), Reason.RUN_NOT_OPEN);
    // Who comes back goes on where the run was.
    stream.send({ case: "open", value: { runId: "left" } });
    const opened = await stream.next();
    assert.ok(opened.case === "opened");
    assert.equal(opened.value.lastRunSeq, 1n);
    stream.send(late("left"));
    assert.equal((await stream.next()).case, "ack");
  });
});
