/** What goes over an Ingest stream, before it is a message of the contract. */
import type { FinishRun, OpenRun, ReleaseRun, WaitRun } from "../../gen/runlog/v1/ingest_pb.js";
import type { RunView } from "../journal/runs.ts";
import type { Refusal } from "../refusal.ts";
import type { AppendBytes } from "../wire/append.ts";
import type { Ack } from "./response-queue.ts";

/** A frame of a producer. */
export interface IngestRequestBytes {
  readonly frame:
    | { readonly case: "open"; readonly value: OpenRun }
    | { readonly case: "append"; readonly value: AppendBytes }
    | { readonly case: "finish"; readonly value: FinishRun }
    | { readonly case: "wait"; readonly value: WaitRun }
    | { readonly case: "release"; readonly value: ReleaseRun }
    | { readonly case: undefined };
}

/** A frame for the producer, before it is a message of the contract. */
export type IngestFrame =
  | {
      readonly t: "opened";
      readonly runId: string;
      readonly epoch: number;
      readonly lastRunSeq: number;
      readonly handledSignalSeq: number;
      readonly lastSignalSeq: number;
    }
  | ({ readonly t: "ack" } & Ack)
  | { readonly t: "ended"; readonly namespace: string; readonly run: RunView }
  | { readonly t: "waiting"; readonly namespace: string; readonly run: RunView }
  | {
      readonly t: "signal";
      readonly runId: string;
      readonly seq: number;
      /** The encoded Signal. */
      readonly signal: Uint8Array;
    }
  | {
      readonly t: "signals_pending";
      readonly runId: string;
      readonly handledSignalSeq: number;
      readonly lastSignalSeq: number;
    }
  | { readonly t: "released"; readonly runId: string }
  | { readonly t: "rejected"; readonly runId: string; readonly refusal: Refusal }
  | { readonly t: "cancel_requested"; readonly runId: string; readonly reason: string }
  | { readonly t: "go_away"; readonly reason: string }
  | { readonly t: "heartbeat" };

/** Bytes of memory that a frame takes while it waits, about. */
export function bytesOfFrame(frame: IngestFrame): number {
  switch (frame.t) {
    case "ended":
    case "waiting":
      return 1_024 + (frame.run.result?.length ?? 0) + (frame.run.waiting?.length ?? 0);
    case "signal":
      return 512 + frame.signal.length;
    default:
      return 512;
  }
}
