/** What the tests of a run's life share: a server and a client of one wire. */
import assert from "node:assert/strict";
import { Code } from "@connectrpc/connect";
import { type ErrorDetail, Reason } from "../../gen/runlog/v1/error_pb.js";
import type { AppendEventsResponse } from "../../gen/runlog/v1/ingest_pb.js";
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import { eventsOf, spec } from "../support/producer.ts";
import type { StartServer, TestServer } from "../support/server.ts";
import { collect, refusalOf, type Wire, type WireClient } from "../support/wire.ts";

/** The shortest lease there is; a test waits for the record, never for the time. */
export const shortLease = { seconds: 1n, nanos: 0 };
/** How most runs end. */
export const succeeded = { state: RunState.SUCCEEDED } as const;

/** Waits for a call to be refused so; what its detail says. */
export async function refuses(
  call: Promise<unknown>,
  code: Code,
  reason: Reason,
): Promise<ErrorDetail> {
  const refused = await refusalOf(call);
  assert.equal(Code[refused.code], Code[code]);
  assert.equal(Reason[refused.detail?.reason ?? 0], Reason[reason]);
  return refused.detail!;
}

/** A server whose retention acts at once, and a client of it. */
export class RunLife {
  readonly #wire: Wire;
  server: TestServer;
  client: WireClient;

  private constructor(wire: Wire, server: TestServer, client: WireClient) {
    this.#wire = wire;
    this.server = server;
    this.client = client;
  }

  static async start(wire: Wire, startServer: StartServer): Promise<RunLife> {
    const server = await startServer({ limits: { retentionIntervalMs: 100 } });
    return new RunLife(wire, server, await wire.connect(server.url));
  }

  async close(): Promise<void> {
    this.client.close();
    await this.server.remove();
    assert.deepEqual(this.server.errors, []);
  }

  /** Stops the server and starts it again; milliseconds since 1970 in between. */
  async restart(): Promise<number> {
    this.client.close();
    await this.server.drain();
    const startedMs = Date.now();
    this.server = await this.server.restart();
    this.client = await this.#wire.connect(this.server.url);
    return startedMs;
  }

  /** All records of runs, once they have ended. */
  async recordsOf(...runIds: string[]): Promise<SequencedEvent[]> {
    const filter = { scope: { case: "runIds" as const, value: { runIds } } };
    const frames = await collect(
      this.client.subscribe.subscribe({ filter, stop: StopPolicy.FINISHED, allowMissing: true }),
    );
    return frames.flatMap(({ frame }) => (frame.case === "events" ? frame.value.events : []));
  }

  /** What the records of a run are, once it has ended. */
  async factsOf(runId: string): Promise<(string | undefined)[]> {
    return (await this.recordsOf(runId)).map(({ record }) => record.case);
  }

  /** Appends a window that creates the run, unless `rest` says otherwise. */
  write(runId: string, texts: readonly string[], rest: object = {}): Promise<AppendEventsResponse> {
    return this.client.ingest.appendEvents({
      runId,
      create: spec,
      firstRunSeq: texts.length === 0 ? 0n : 1n,
      events: eventsOf(...texts),
      ...rest,
    });
  }
}
