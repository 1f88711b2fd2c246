/** What a client cannot do it says, at once or once it is sure, and never drops in silence. */
import assert from "node:assert/strict";
import { once } from "node:events";
import * as http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { inspect } from "node:util";
import { Code, type Transport } from "@connectrpc/connect";
import { runStreamingCall } from "@connectrpc/connect/protocol";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import {
  FirstContactError,
  follow,
  type OpenRunOptions,
  openRun,
  ReceiveLimitError,
  type ResultInit,
  RunlogError,
  type SenderState,
} from "../../src/client/index.ts";
import { misdirectedTimeoutMs } from "../../src/client/limits.ts";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";
import { Retries } from "../../src/client/retries.ts";
import { maxSuppressed } from "../../src/limits.ts";
import { startTestServer, type TestServer } from "../support/server.ts";

const backoff = { baseMs: 1, capMs: 5 };
const succeeded = { state: RunState.SUCCEEDED } as const;
const spec = { agentId: "a" };

describe("a sender", () => {
  let server: TestServer;
  let connection: NodeConnection;
  let ending: AbortController;

  beforeEach(async () => {
    server = await startTestServer();
    connection = connectTo(server.url);
    ending = new AbortController();
  });

  afterEach(async () => {
    ending.abort();
    connection.close();
    await server.remove();
  });

  const open = (options: OpenRunOptions = {}) =>
    openRun(connection.transport, { spec, signal: ending.signal, ...options });

  it("tells in finish what its buffer did not take, and warns once where nobody listens", async () => {
    const warnings: Error[] = [];
    const onWarning = (warning: Error) => warnings.push(warning);
    process.on("warning", onWarning);
    try {
      const sender = open({ runId: "r", limits: { maxBufferedEvents: 2 } });
      for (let i = 0; i < 5; i++) sender.emit({ type: "loop" });
      const { durable, dropped } = await sender.finish(succeeded);
      assert.deepEqual({ durable, dropped }, { durable: 2, dropped: 3 });
      const own = warnings.filter(({ name }) => name === "RunlogWarning");
      assert.equal(own.length, 1);
      assert.match(own[0]!.message, /^run r: .*buffer is full/);
    } finally {
      process.off("warning", onWarning);
    }
  });

  it("warns of what is wrong with an event", async () => {
    const warned = once(process, "warning");
    const sender = open({ runId: "untyped" });
    assert.equal(sender.emit({}), false);
    const [{ message }] = (await warned) as [Error];
    assert.match(message, /^run untyped: .* it is not valid: event\.type: /);
    assert.equal((await sender.finish(succeeded)).dropped, 1);
  });

  it("leaves it to onDrop to say so, where there is one", async () => {
    const warnings: Error[] = [];
    const onWarning = (warning: Error) => warnings.push(warning);
    process.on("warning", onWarning);
    try {
      const reasons: string[] = [];
      const onDrop = ({ reason }: { readonly reason: string }) => reasons.push(reason);
      const sender = open({ limits: { maxBufferedEvents: 1 }, onDrop });
      for (let i = 0; i < 2; i++) sender.emit({ type: "loop" });
      assert.equal((await sender.finish(succeeded)).dropped, 1);
      assert.deepEqual(reasons, ["overflow"]);
      assert.deepEqual(
        warnings.filter(({ name }) => name === "RunlogWarning"),
        [],
      );
    } finally {
      process.off("warning", onWarning);
    }
  });

  it("refuses at once a result that every server refuses, and can be finished still", async () => {
    const sender = open();
    sender.emit({ type: "test" });
    const large = { state: RunState.FAILED, failure: { message: "x".repeat(3_000_000) } };
    const failure = { message: "not of a success" };
    const tooMany = Array.from({ length: maxSuppressed + 1 }, () => failure);
    for (const [result, reason] of [
      [{ state: RunState.RUNNING }, Reason.INVALID_FIELD],
      [{}, Reason.INVALID_FIELD],
      [{ state: RunState.SUCCEEDED, failure }, Reason.INVALID_FIELD],
      [{ state: RunState.FAILED, failure: { message: "a\0b" } }, Reason.INVALID_FIELD],
      [{ state: RunState.FAILED, suppressed: tooMany }, Reason.INVALID_FIELD],
      [large, Reason.TOO_LARGE],
    ] as const) {
      await assert.rejects(
        // Types refuse most of these.
        sender.finish(result as ResultInit),
        (error) => error instanceof RunlogError && error.reason === Reason[reason],
      );
    }
    assert.equal((await sender.finish(succeeded)).durable, 1);
  });
});

describe("a sender that finds no server", () => {
  it("fails once its first contact takes too long, with the last reason", async () => {
    const server = await startTestServer();
    await server.remove();
    const connection = connectTo(server.url);
    const limits = { backoff, firstContactTimeoutMs: 100 };
    const sender = openRun(connection.transport, { spec, limits });
    await assert.rejects(sender.finish(succeeded), (error) => {
      assert.ok(error instanceof FirstContactError);
      assert.equal(error.waitedMs, 100);
      assert.ok(error.cause instanceof Error);
      return true;
    });
    connection.close();
  });

  it("fails at once over a transport that cannot stream requests", async () => {
    const problem = "The fetch API does not support streaming request bodies";
    const transport = {
      // As the transports of browsers do it.
      stream: (
        method: never,
        signal: AbortSignal,
        _timeoutMs: number,
        header: Headers,
        message: never,
      ) =>
        runStreamingCall({
          signal,
          req: {
            stream: true,
            service: IngestService,
            method,
            message,
            header,
            requestMethod: "POST",
            url: "",
            contextValues: {} as never,
          } as never,
          next: () => Promise.reject(problem as unknown as Error),
        }),
    } as unknown as Transport;
    await assert.rejects(openRun(transport, { spec }).opened, (error) => {
      assert.ok(error instanceof TypeError, inspect(error));
      assert.ok(error.message.includes(problem));
      return true;
    });
  });
});

describe("a client behind a proxy", () => {
  let close: () => void;
  let url: string;
  /** The HTTP status that the proxy answers itself. */
  let status: number | undefined;
  let answered: number;
  let streams: Set<http2.ServerHttp2Stream>;

  beforeEach(async () => {
    status = undefined;
    answered = 0;
    streams = new Set();
    let epoch = 0n;
    let lastRunSeq = 0n;
    const handler = connectNodeAdapter({
      routes({ service }) {
        service(IngestService, {
          async *ingest(requests) {
            for await (const { frame } of requests) {
              if (frame.case === "open") {
                const value = { runId: "r", epoch: ++epoch, lastRunSeq };
                yield { frame: { case: "opened", value } };
              } else if (frame.case === "append") {
                lastRunSeq = frame.value.firstRunSeq + BigInt(frame.value.events.length) - 1n;
                const value = { runId: "r", runSeq: lastRunSeq, seq: lastRunSeq };
                yield { frame: { case: "ack", value } };
              }
            }
          },
        });
      },
    });
    const server = http2.createServer((request, response) => {
      if (status === undefined) {
        streams.add(request.stream);
        handler(request, response);
      } else {
        response.writeHead(status).end("a proxy's page");
        // A proxy that comes back: what it refused was the fault of a moment.
        if (++answered === 2) status = undefined;
      }
    });
    const sessions = new Set<http2.ServerHttp2Session>();
    server.on("session", (session) => sessions.add(session));
    await once(server.listen(0, "127.0.0.1"), "listening");
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    close = () => {
      for (const session of sessions) session.destroy();
      server.close();
    };
  });

  afterEach(() => close());

  for (const [refusal, code] of [
    [401, Code.Unauthenticated],
    [403, Code.PermissionDenied],
    [404, Code.Unimplemented],
  ] as const) {
    it(`ends at its first call at an HTTP ${refusal}, which cannot pass`, async () => {
      status = refusal;
      const connection = connectTo(url);
      const sender = openRun(connection.transport, { runId: "r", limits: { backoff } });
      await assert.rejects(
        sender.opened,
        (error) => error instanceof RunlogError && error.code === code,
      );
      assert.equal(answered, 1);
      connection.close();
    });

    it(`goes on after an HTTP ${refusal} once the server has served it`, async () => {
      const connection = connectTo(url);
      const seen: SenderState["t"][] = [];
      const sender = openRun(connection.transport, {
        runId: "r",
        limits: { backoff },
        onState: ({ t }) => seen.push(t),
      });
      sender.emit({ type: "before" });
      await sender.flush();
      status = refusal;
      for (const stream of streams) stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
      sender.emit({ type: "after" });
      await sender.flush();
      assert.equal(answered, 2);
      assert.deepEqual(await sender.close(5_000), { durable: 2, unacked: 0 });
      assert.ok(seen.filter((t) => t === "waiting").length >= 3, `${seen}`);
      connection.close();
    });
  }

  it("ends where a message is larger than it takes, which is not the server's refusal", async () => {
    const raw = http2.createServer();
    // The client gives its streams up in the middle of a message.
    raw.on("session", (session) => session.on("error", () => undefined));
    raw.on("stream", (stream) => {
      stream.on("error", () => undefined);
      stream.respond({ ":status": 200, "content-type": "application/grpc+proto" });
      // A message of 4 GiB begins.
      stream.write(Buffer.of(0, 0xff, 0xff, 0xff, 0xff));
    });
    await once(raw.listen(0, "127.0.0.1"), "listening");
    const connection = connectTo(`http://127.0.0.1:${(raw.address() as AddressInfo).port}`);
    const filter = { scope: { case: "all" as const, value: {} } };
    await assert.rejects(
      follow(connection.transport, { filter }, { backoff }).next(),
      ReceiveLimitError,
    );
    await assert.rejects(openRun(connection.transport, { spec }).opened, ReceiveLimitError);
    connection.close();
    raw.close();
  });

  it("gives up where it was served before and is refused for a bounded time", async () => {
    status = 403;
    const connection = connectTo(url);
    let error: unknown;
    await openRun(connection.transport, { runId: "r" }).opened.catch((thrown: Error) => {
      error = thrown.cause;
    });
    connection.close();
    let nowMs = 0;
    const retries = new Retries(() => nowMs);
    assert.equal(retries.isFinal(error), true);
    retries.answered();
    assert.equal(retries.isFinal(error), false);
    nowMs += misdirectedTimeoutMs - 1;
    assert.equal(retries.isFinal(error), false);
    nowMs += 1;
    assert.equal(retries.isFinal(error), true);
    retries.answered();
    assert.equal(retries.isFinal(error), false);
  });
});
