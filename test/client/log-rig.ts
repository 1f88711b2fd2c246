/** What the tests of logs share: a server behind a proxy that breaks connections, and its logs. */
import assert from "node:assert/strict";
import {
  createConnectTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import type { ConnectLogOptions, Log, LogRecord, Run } from "../../src/client/index.ts";
import { connect } from "../../src/client/node/runlog.ts";
import type { ServerOptions } from "../../src/server/server.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { BreakingProxy } from "./breaking-proxy.ts";

/** Waits between calls that are short enough for a test. */
export const backoff = { baseMs: 2, capMs: 20 };

interface Connected {
  readonly log: Log;
  close(): void;
}

/** A way to connect. */
export interface LogWire {
  readonly name: string;
  connect(url: string, options: ConnectLogOptions): Connected;
}

const gRPC: LogWire = {
  name: "gRPC",
  connect: (url, options) => ({ log: connect(url, options), close: () => {} }),
};

const connectHttp2: LogWire = {
  name: "Connect (HTTP/2, JSON)",
  connect(baseUrl, options) {
    const sessionManager = new Http2SessionManager(baseUrl);
    const common = { baseUrl, sessionManager, useBinaryFormat: false };
    const transport = createConnectTransport({ ...common, httpVersion: "2" });
    return { log: connect(transport, options), close: () => sessionManager.abort() };
  },
};

const connectHttp1: LogWire = {
  name: "Connect (HTTP/1.1)",
  connect(baseUrl, options) {
    const transport = createConnectTransport({ baseUrl, httpVersion: "1.1" });
    return { log: connect(transport, options), close: () => {} };
  },
};

const gRPCWeb: LogWire = {
  name: "gRPC-Web (HTTP/1.1)",
  connect(baseUrl, options) {
    const transport = createGrpcWebTransport({ baseUrl, httpVersion: "1.1" });
    return { log: connect(transport, options), close: () => {} };
  },
};

/** Those that carry runs. */
export const producingWires: readonly LogWire[] = [gRPC, connectHttp2];

/** Those that one can follow over. */
export const followingWires: readonly LogWire[] = [gRPC, connectHttp1, gRPCWeb];

/** A server, a proxy before it, and the logs of one test. */
export class LogRig {
  /** A test may put another one in its place. */
  server: TestServer;
  readonly proxy: BreakingProxy;
  readonly #connected: Connected[] = [];

  private constructor(server: TestServer, proxy: BreakingProxy) {
    this.server = server;
    this.proxy = proxy;
  }

  static async start(options: Partial<ServerOptions> = {}): Promise<LogRig> {
    const server = await startTestServer(options);
    return new LogRig(server, await BreakingProxy.start(server.url));
  }

  /** A log that is closed with the test; past the proxy unless `url` says otherwise. */
  connect(wire: LogWire = gRPC, url = this.server.url, options: ConnectLogOptions = {}): Log {
    const connected = wire.connect(url, { limits: { backoff }, ...options });
    this.#connected.push(connected);
    return connected.log;
  }

  /** Starts another server in the place of this one; `changes` where it differs. */
  async restart(changes: Partial<ServerOptions> = {}): Promise<void> {
    const port = Number(new URL(this.server.url).port);
    this.server = await this.server.restart({ port, ...changes });
  }

  /** Everything in the journal, past the proxy. */
  async replay(): Promise<LogRecord[]> {
    const records: LogRecord[] = [];
    for await (const record of this.connect().follow({ all: true }, { until: "caught-up" })) {
      records.push(record);
    }
    return records;
  }

  /** The types of a run's events. */
  async typesOf({ runId }: Pick<Run, "runId">): Promise<string[]> {
    const records = await this.replay();
    const events = records.filter((one) => one.kind === "event" && one.runId === runId);
    return events.map(({ type }) => type);
  }

  async close(): Promise<void> {
    await Promise.all(this.#connected.map(({ log }) => log.close(0)));
    for (const { close } of this.#connected) close();
    await this.proxy.close();
    await this.server.remove();
    assert.deepEqual(this.server.errors, []);
  }
}
