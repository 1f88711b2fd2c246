/** What the client makes of frames that say nothing about its runs. */
import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import { create, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { Transport } from "@connectrpc/connect";
import { type IngestResponse, IngestResponseSchema } from "../../gen/runlog/v1/ingest_pb.js";
import {
  decodeSubscribeResponse,
  NoAnswerError,
  openRun,
  type SenderState,
} from "../../src/client/index.ts";
import type { IngestTransport, RequestFrame } from "../../src/client/ingest-transport.ts";
import { maxAnswerWaits, minSilenceMs } from "../../src/client/limits.ts";
import { decodeIngestResponse } from "../../src/wire/ack.ts";

const opened = create(IngestResponseSchema, {
  frame: { case: "opened", value: { runId: "r", epoch: 1n } },
});
const acked = create(IngestResponseSchema, {
  frame: { case: "ack", value: { runId: "r", runSeq: 1n, seq: 2n } },
});
/** As a client reads them that was built before there were any. */
const heartbeat = toBinary(
  IngestResponseSchema,
  create(IngestResponseSchema, { frame: { case: "heartbeat", value: {} } }),
);
/** A frame of a later version. */
const unknown = new BinaryWriter()
  .tag(1_000, WireType.LengthDelimited)
  .bytes(Uint8Array.of(8, 1))
  .finish();

const ackTimeoutMs = 60;

/** A server that takes one event and is heard, by heartbeats, until `answer` says what comes of it. */
function serverThat(answer: () => IngestResponse | undefined): Transport {
  const ingest: IngestTransport["ingest"] = async function* (requests, signal) {
    const sent: AsyncIterator<readonly RequestFrame[]> = requests[Symbol.asyncIterator]();
    await sent.next();
    yield [opened];
    await sent.next();
    for (;;) {
      await delay(5, undefined, { signal });
      const frame = answer();
      yield [frame ?? decodeIngestResponse(heartbeat), decodeIngestResponse(unknown)];
      if (frame !== undefined) break;
    }
    await sent.next();
  };
  const none = () => Promise.reject(new Error("only Ingest is served here"));
  return { ingest, unary: none, stream: none } as IngestTransport;
}

describe("a client that hears a frame which is not about its run", () => {
  it("decodes one that it does not know as no frame at all", () => {
    assert.equal(decodeIngestResponse(unknown).frame.case, undefined);
    assert.equal(decodeSubscribeResponse(unknown).frame.case, undefined);
  });

  it("waits longer for its answer than for that of a server that is silent", async () => {
    let heard = 0;
    const transport = serverThat(() => (++heard * 5 > 2 * ackTimeoutMs ? acked : undefined));
    const sender = openRun(transport, { runId: "r", limits: { ackTimeoutMs } });
    sender.emit({ type: "test" });
    await sender.flush();
    assert.deepEqual([sender.stats.durable, sender.stats.reconnects], [1, 0]);
    await sender.close(100);
  });

  it("does not wait for ever", async () => {
    const failed = Promise.withResolvers<Error>();
    const onState = (state: SenderState) => {
      if (state.t === "waiting") failed.resolve(state.error);
    };
    const transport = serverThat(() => undefined);
    const sender = openRun(transport, { runId: "r", limits: { ackTimeoutMs }, onState });
    sender.emit({ type: "test" });
    const error = await failed.promise;
    assert.ok(error instanceof NoAnswerError, String(error));
    assert.equal(error.waitedMs, maxAnswerWaits * ackTimeoutMs);
    await sender.close(0);
  });

  it("leaves a call on which heartbeats came, and then nothing for several of their intervals", async () => {
    const failed = Promise.withResolvers<Error>();
    const ingest: IngestTransport["ingest"] = async function* (requests, signal) {
      await requests[Symbol.asyncIterator]().next();
      yield [opened];
      yield [decodeIngestResponse(heartbeat)];
      await new Promise((_, reject) =>
        signal.addEventListener("abort", () => reject(signal.reason as Error)),
      );
    };
    const none = () => Promise.reject(new Error("only Ingest is served here"));
    const sender = openRun({ ingest, unary: none, stream: none } as IngestTransport, {
      runId: "r",
      onState: (state) => state.t === "waiting" && failed.resolve(state.error),
    });
    const error = await failed.promise;
    assert.ok(error instanceof NoAnswerError, String(error));
    assert.equal(error.waitedMs, minSilenceMs);
    await sender.close(0);
  });
});
