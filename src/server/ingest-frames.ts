/**
 * What an Ingest stream is told, encoded: acknowledgements, which most of it is,
 * by hand.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/, with the field
 * numbers of IngestResponse and AppendAck in `proto/runlog/v1/ingest.proto`.
 */
import { toBinary } from "@bufbuild/protobuf";
import { IngestResponseSchema } from "../../gen/runlog/v1/ingest_pb.js";
import {
  envelopeBytes,
  FieldWriter,
  messageField,
  numberField,
  textField,
  utf8LengthOf,
} from "../field-writer.ts";
import type { IngestFrame } from "../ingest/ingest-stream.ts";
import type { Limits } from "../limits.ts";
import { toIngestResponse } from "./messages.ts";

const tagAck = 0x12; // IngestResponse.ack
const tagRunId = 0x0a; // AppendAck.run_id
const tagRunSeq = 0x10; // AppendAck.run_seq
const tagSeq = 0x18; // AppendAck.seq

type Ack = Extract<IngestFrame, { t: "ack" }>;

/** Frames in gRPC's envelopes, one behind the other. */
export function encodeFrames(frames: readonly IngestFrame[], limits: Limits): Uint8Array {
  const others = frames.map((frame) =>
    frame.t === "ack" ? undefined : toBinary(IngestResponseSchema, toIngestResponse(frame, limits)),
  );
  let bytes = 0;
  for (const [index, frame] of frames.entries()) {
    bytes +=
      envelopeBytes + (frame.t === "ack" ? messageField(ackBytes(frame)) : others[index]!.length);
  }
  const out = new FieldWriter(bytes);
  for (const [index, frame] of frames.entries()) {
    if (frame.t === "ack") {
      writeAck(out, frame);
      continue;
    }
    out.envelope(others[index]!.length);
    out.raw(others[index]!);
  }
  return out.buffer;
}

function ackBytes({ runId, runSeq, seq }: Ack): number {
  return textField(utf8LengthOf(runId) ?? 0) + numberField(runSeq) + numberField(seq);
}

function writeAck(out: FieldWriter, ack: Ack): void {
  const bytes = ackBytes(ack);
  out.envelope(messageField(bytes));
  out.number(tagAck, bytes);
  out.text(tagRunId, ack.runId, utf8LengthOf(ack.runId) ?? 0);
  if (ack.runSeq > 0) out.number(tagRunSeq, ack.runSeq);
  if (ack.seq > 0) out.number(tagSeq, ack.seq);
}
