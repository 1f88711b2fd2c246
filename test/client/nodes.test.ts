/** Clients of several nodes, of which some take no connection, say nothing, stop or cannot work. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import * as http2 from "node:http2";
import * as net from "node:net";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunService, RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy, SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { follow, followMany, openRun } from "../../src/client/index.ts";
import {
  type ConnectOptions,
  connectTo,
  type NodeConnection,
} from "../../src/client/node/index.ts";
import { longestTimerMs } from "../../src/timers.ts";
import { ServerProcesses } from "../crash/server-process.ts";
import { giveBackDatabase, takeDatabase } from "../support/postgres.ts";
import { startTestServer, type TestServer } from "../support/server.ts";

const filter = { scope: { case: "all" as const, value: {} } };
const backoff = { baseMs: 2, capMs: 20 };
const quick: ConnectOptions = { connectTimeoutMs: 200 };
/** No bound ends what only an abort may end. */
const patient: ConnectOptions = { connectTimeoutMs: longestTimerMs };

/** A node that does not do its work. */
interface BadNode {
  readonly url: string;
  close(): Promise<void>;
}

/** Takes connections and says nothing. */
async function silentNode(): Promise<BadNode> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket.resume().on("error", () => undefined));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    async close() {
      for (const socket of sockets) socket.destroy();
      await once(server.close(), "close");
    },
  };
}

/** Its backlog is full, so that a SYN gets no answer: its process takes no connections. */
async function deafNode(): Promise<BadNode> {
  const program = `
    const server = require("node:net").createServer().listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => {
      require("node:fs").writeSync(1, server.address().port + "\\n");
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    });`;
  const child: ChildProcess = spawn(process.execPath, ["-e", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = (await once(child.stdout!, "data")) as [Buffer];
  const port = Number(line.toString());
  const sockets: net.Socket[] = [];
  // Those that the backlog takes connect at once; then one waits.
  for (let isTaken = true; isTaken; ) {
    const socket = net.connect(port, "127.0.0.1").on("error", () => undefined);
    sockets.push(socket);
    isTaken = await Promise.race([
      once(socket, "connect").then(() => true),
      new Promise<false>((resolve) => setTimeout(resolve, 200, false)),
    ]);
  }
  return {
    url: `http://127.0.0.1:${port}`,
    async close() {
      for (const socket of sockets) socket.destroy();
      child.kill("SIGKILL");
      await once(child, "close");
    },
  };
}

/** Speaks the protocol and refuses everything for this reason, by a status or run by run. */
async function refusingNode(reason: Reason, how: "call" | "run" = "call"): Promise<BadNode> {
  const detail = create(ErrorDetailSchema, { reason });
  const refusal = () =>
    new ConnectError("not now", Code.Unavailable, undefined, [
      { desc: ErrorDetailSchema, value: detail },
    ]);
  const handler = connectNodeAdapter({
    routes({ service }) {
      service(IngestService, {
        async *ingest(requests) {
          if (how === "call") throw refusal();
          for await (const { frame } of requests) {
            if (frame.case !== "open") continue;
            yield { frame: { case: "rejected", value: { runId: frame.value.runId, detail } } };
          }
        },
      });
      service(SubscribeService, {
        // biome-ignore lint/correctness/useYield: it has nothing to give.
        async *subscribe() {
          throw refusal();
        },
        async *subscribeMany({ subscriptions: [first] }) {
          const { subscriptionId } = first!;
          if (reason === Reason.DRAINING) {
            const goAway = { frame: { case: "goAway" as const, value: {} } };
            yield { frame: { case: "response", value: goAway } };
          } else if (how === "run") {
            yield { subscriptionId, frame: { case: "ended", value: { detail } } };
          }
          throw refusal();
        },
      });
      service(RunService, {
        createRun() {
          throw refusal();
        },
      });
    },
  });
  const server = http2.createServer(handler);
  const sessions = new Set<http2.ServerHttp2Session>();
  server.on("session", (session) => sessions.add(session));
  await once(server.listen(0, "127.0.0.1"), "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    async close() {
      for (const session of sessions) session.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

const badNodes: Readonly<Record<string, () => Promise<BadNode>>> = {
  "says nothing": silentNode,
  "takes no connection": deafNode,
  "has no journal": () => refusingNode(Reason.JOURNAL_UNAVAILABLE),
  "has no journal for a run": () => refusingNode(Reason.JOURNAL_UNAVAILABLE, "run"),
  "is going away": () => refusingNode(Reason.DRAINING),
  "has no memory": () => refusingNode(Reason.OVERLOADED, "run"),
};

describe("a client of several nodes", () => {
  let good: TestServer;
  let connections: NodeConnection[];
  let bad: BadNode[];

  beforeEach(async () => {
    good = await startTestServer();
    connections = [];
    bad = [];
  });

  afterEach(async () => {
    for (const connection of connections) connection.close();
    for (const node of bad) await node.close();
    await good.remove();
  });

  const connect = (urls: string, options: ConnectOptions) => {
    const connection = connectTo(urls, options);
    connections.push(connection);
    return connection.transport;
  };

  for (const [what, start] of Object.entries(badNodes)) {
    it(`leaves one that ${what} for the next`, async () => {
      const node = await start();
      bad.push(node);
      const urls = `${node.url},${good.url}`;
      const limits = { backoff, openTimeoutMs: longestTimerMs };

      const sender = openRun(connect(urls, quick), { runId: "r", spec: { agentId: "a" }, limits });
      sender.emit({ type: "test" });
      const { durable } = await sender.finish({ state: RunState.SUCCEEDED });
      assert.equal(durable, 1);

      // Each with a connection of its own, so each meets the bad node first.
      const cases: string[] = [];
      const request = { filter, stop: StopPolicy.CAUGHT_UP };
      for await (const item of follow(connect(urls, quick), request, { backoff })) {
        if (item.t === "records") cases.push(...item.records.map(({ record }) => `${record.case}`));
      }
      assert.deepEqual(cases, ["runStarted", "event", "runFinished"]);

      let records = 0;
      for await (const item of followMany(connect(urls, quick), { one: request }, { backoff })) {
        if (item.t === "records") records += item.records.length;
      }
      assert.equal(records, 3);

      const runs = createClient(RunService, connect(urls, quick));
      const { run } = await runs.createRun({ runId: "other", spec: { agentId: "a" } });
      assert.equal(run?.runId, "other");
    });
  }

  for (const what of ["says nothing", "takes no connection"]) {
    it(`ends every call to one that ${what} at once where it is aborted`, async () => {
      const node = await badNodes[what]!();
      bad.push(node);
      const stopped = new Error("stopped");
      for (const urls of [node.url, `${node.url},${node.url}`]) {
        const transport = connect(urls, patient);
        const ending = new AbortController();
        const { signal } = ending;
        const unary = createClient(RunService, transport).getRun({ runId: "r" }, { signal });
        const following = follow(transport, { filter }, { signal }).next();
        const { watch } = createClient(SubscribeService, transport);
        const watching = watch((async function* () {})(), { signal })
          [Symbol.asyncIterator]()
          .next();
        const sender = openRun(transport, { signal });
        ending.abort(stopped);
        await assert.rejects(unary);
        await assert.rejects(following, stopped);
        await assert.rejects(watching);
        await assert.rejects(sender.opened, (error) => (error as Error).cause === stopped);
      }
    });
  }

  it("tries each once in a round and then waits, where none can work", async () => {
    const first = await refusingNode(Reason.JOURNAL_UNAVAILABLE);
    const second = await refusingNode(Reason.JOURNAL_UNAVAILABLE);
    bad.push(first, second);
    const runs = createClient(RunService, connect(`${first.url},${second.url}`, quick));
    await assert.rejects(runs.createRun({ runId: "r" }), (error) => {
      const [detail] = (error as ConnectError).findDetails(ErrorDetailSchema);
      assert.equal(detail?.reason, Reason.JOURNAL_UNAVAILABLE);
      return true;
    });
  });
});

describe("a client whose node stops in mid-stream", () => {
  const processes = new ServerProcesses();
  let journal: string;

  before(async () => {
    journal = await takeDatabase();
  });

  after(async () => {
    await processes.endAll();
    await giveBackDatabase(journal);
  });

  it("goes on at the next, and loses and doubles nothing", async () => {
    const limits = { nodeTimeoutMs: 1_000 };
    const [first, second] = [
      await processes.start({ journal, limits }),
      await processes.start({ journal, limits }),
    ];
    const connection = connectTo(`${first.url},${second.url}`, {
      connectTimeoutMs: 500,
      pingIntervalMs: 200,
      pingTimeoutMs: 500,
    });
    const ending = new AbortController();
    try {
      const { transport } = connection;
      const sender = openRun(transport, {
        runId: "r",
        spec: { agentId: "a" },
        limits: { backoff },
        signal: ending.signal,
      });
      sender.emit({ type: "before" });
      await sender.flush();
      const types: string[] = [];
      const request = { filter: { scope: { case: "runIds" as const, value: { runIds: ["r"] } } } };
      const items = follow(transport, { ...request, stop: StopPolicy.FINISHED }, { backoff });
      for await (const item of items) {
        if (item.t === "caught_up") {
          // Both streams are in the middle of it.
          first.suspend();
          sender.emit({ type: "after" });
          await sender.flush();
          await sender.finish({ state: RunState.SUCCEEDED });
        }
        if (item.t !== "records") continue;
        for (const { record } of item.records) {
          if (record.case === "event") types.push(record.value.type);
        }
      }
      assert.deepEqual(types, ["before", "after"]);
    } finally {
      ending.abort();
      connection.close();
      first.resume();
    }
  });
});
