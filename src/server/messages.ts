/** Maps the domain's values to the contract's messages. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type Namespace, NamespaceSchema } from "../../gen/runlog/v1/admin_pb.js";
import { type IngestResponse, IngestResponseSchema } from "../../gen/runlog/v1/ingest_pb.js";
import { SignalSchema } from "../../gen/runlog/v1/record_pb.js";
import {
  type Run,
  RunResultSchema,
  RunSchema,
  RunSpecSchema,
  RunState,
  WaitSchema,
} from "../../gen/runlog/v1/run_pb.js";
import {
  type EventBatch,
  EventBatchSchema,
  type SubscribeResponse,
  SubscribeResponseSchema,
} from "../../gen/runlog/v1/subscribe_pb.js";
import type { SubscriptionFrame } from "../delivery/frames.ts";
import type { IngestFrame } from "../ingest/frames.ts";
import type { RunView } from "../journal/runs.ts";
import type { Limits } from "../limits.ts";
import type { NamespaceView } from "../maintenance/namespace-directory.ts";
import { describeRefusal } from "../refusal.ts";
import { eventsField, eventsResponse } from "../wire/subscribe-response.ts";
import { toErrorDetail } from "./errors.ts";

/** A run as the API shows it. */
export function toRun(namespace: string, view: RunView): Run {
  return create(RunSchema, {
    runId: view.run_id,
    namespace,
    spec: fromBinary(RunSpecSchema, view.spec),
    rootRunId: view.root_run_id,
    depth: view.depth,
    state: view.state,
    lastRunSeq: BigInt(view.last_run_seq),
    startSeq: BigInt(view.run_key),
    lastSeq: BigInt(view.last_seq),
    createTime: timestampFromMs(view.create_time_ms),
    eventBytes: BigInt(view.event_bytes),
    lastSignalSeq: BigInt(view.last_signal_seq),
    handledSignalSeq: BigInt(view.handled_signal_seq),
    ...(view.waiting !== null &&
      view.state === RunState.WAITING && { waiting: fromBinary(WaitSchema, view.waiting) }),
    ...(view.result === null ? {} : { result: fromBinary(RunResultSchema, view.result) }),
    ...(view.end_time_ms === null ? {} : { endTime: timestampFromMs(view.end_time_ms) }),
    ...(view.fork_run_id === null
      ? {}
      : { fork: { runId: view.fork_run_id, runSeq: BigInt(view.fork_run_seq ?? 0) } }),
  });
}

/** A namespace as the API shows it. */
export function toNamespace({ row, earliestSeq }: NamespaceView): Namespace {
  return create(NamespaceSchema, {
    name: row.name,
    earliestSeq: BigInt(earliestSeq),
    latestSeq: BigInt(row.last_seq),
    runningCount: BigInt(row.running_count),
    waitingCount: BigInt(row.waiting_count),
    runCount: BigInt(row.run_count),
    eventBytes: BigInt(row.event_bytes),
    createTime: timestampFromMs(row.create_time_ms),
    ...(row.retention_ms === null ? {} : { retention: durationFromMs(row.retention_ms) }),
  });
}

/** The limits that a producer gets. */
export function toIngestLimits(limits: Limits) {
  return {
    maxEventBytes: BigInt(limits.maxEventBytes),
    maxAppendBytes: BigInt(limits.maxAppendBytes),
    maxUnackedEvents: BigInt(limits.maxUnackedEvents),
  };
}

/** A frame of an Ingest stream. */
export function toIngestResponse(frame: IngestFrame, limits: Limits): IngestResponse {
  switch (frame.t) {
    case "opened":
      return create(IngestResponseSchema, {
        frame: {
          case: "opened",
          value: {
            runId: frame.runId,
            epoch: BigInt(frame.epoch),
            lastRunSeq: BigInt(frame.lastRunSeq),
            limits: toIngestLimits(limits),
            handledSignalSeq: BigInt(frame.handledSignalSeq),
            lastSignalSeq: BigInt(frame.lastSignalSeq),
          },
        },
      });
    case "ack":
      return create(IngestResponseSchema, {
        frame: {
          case: "ack",
          value: {
            runId: frame.runId,
            runSeq: BigInt(frame.runSeq),
            seq: BigInt(frame.seq),
            handledSignalSeq: BigInt(frame.handledSignalSeq),
          },
        },
      });
    case "ended":
      return create(IngestResponseSchema, {
        frame: { case: "ended", value: { run: toRun(frame.namespace, frame.run) } },
      });
    case "waiting":
      return create(IngestResponseSchema, {
        frame: { case: "waiting", value: { run: toRun(frame.namespace, frame.run) } },
      });
    case "signal": {
      const { runId, seq } = frame;
      const signal = fromBinary(SignalSchema, frame.signal);
      return create(IngestResponseSchema, {
        frame: { case: "signal", value: { runId, seq: BigInt(seq), signal } },
      });
    }
    case "signals_pending":
      return create(IngestResponseSchema, {
        frame: {
          case: "signalsPending",
          value: {
            runId: frame.runId,
            handledSignalSeq: BigInt(frame.handledSignalSeq),
            lastSignalSeq: BigInt(frame.lastSignalSeq),
          },
        },
      });
    case "released":
      return create(IngestResponseSchema, {
        frame: { case: "released", value: { runId: frame.runId } },
      });
    case "rejected":
      return create(IngestResponseSchema, {
        frame: {
          case: "rejected",
          value: {
            runId: frame.runId,
            detail: toErrorDetail(frame.refusal),
            message: describeRefusal(frame.refusal),
          },
        },
      });
    case "cancel_requested":
      return create(IngestResponseSchema, {
        frame: {
          case: "cancelRequested",
          value: { runId: frame.runId, reason: frame.reason },
        },
      });
    case "go_away":
      return create(IngestResponseSchema, {
        frame: { case: "goAway", value: { reason: frame.reason } },
      });
    case "heartbeat":
      return create(IngestResponseSchema, { frame: { case: "heartbeat", value: {} } });
  }
}

/** How a call's messages are written: JSON has to be decoded first, binary is copied. */
export type MessageFormat = "binary" | "json";

/** The message to a client when the server drains. */
export const goAwayReason = "the server closes this connection: reconnect";

function decodeBatch(parts: readonly Uint8Array[]): EventBatch {
  return fromBinary(EventBatchSchema, Buffer.concat(parts));
}

/** Tells a subscriber that the server goes away. */
export interface GoAwayFrame {
  readonly t: "go_away";
  readonly reason: string;
}

/** A frame of a subscription, encoded, in parts: the journal's bytes are not copied. */
export function toSubscribeBytes(frame: SubscriptionFrame | GoAwayFrame): readonly Uint8Array[] {
  if (frame.t !== "events") {
    return [toBinary(SubscribeResponseSchema, toSubscribeResponse(frame, "binary"))];
  }
  return eventsResponse(frame.parts);
}

/**
 * A frame of a subscription. In binary the journal's bytes go out as they are:
 * a field that the message does not know is written verbatim, so they are put
 * there instead of being decoded only to be encoded again.
 */
export function toSubscribeResponse(
  frame: SubscriptionFrame | GoAwayFrame,
  format: MessageFormat,
): SubscribeResponse {
  switch (frame.t) {
    case "subscribed":
      return create(SubscribeResponseSchema, {
        frame: {
          case: "subscribed",
          value: {
            journalId: frame.journalId,
            earliestSeq: BigInt(frame.earliestSeq),
            latestSeq: BigInt(frame.latestSeq),
            afterSeq: BigInt(frame.afterSeq),
          },
        },
      });
    case "events": {
      if (format === "json") {
        return create(SubscribeResponseSchema, {
          frame: { case: "events", value: decodeBatch(frame.parts) },
        });
      }
      const response = create(SubscribeResponseSchema);
      response.$unknown = [eventsField(frame.parts)];
      return response;
    }
    case "caught_up":
      return create(SubscribeResponseSchema, {
        frame: { case: "caughtUp", value: { seq: BigInt(frame.seq) } },
      });
    case "progress":
      return create(SubscribeResponseSchema, {
        frame: { case: "progress", value: { seq: BigInt(frame.seq) } },
      });
    case "go_away":
      return create(SubscribeResponseSchema, {
        frame: { case: "goAway", value: { reason: frame.reason } },
      });
  }
}
