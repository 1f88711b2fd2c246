/**
 * What an Ingest stream is told, encoded: acknowledgements, which most of it is,
 * by hand.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/, with the field
 * numbers of IngestResponse and AppendAck in `proto/runlog/v1/ingest.proto`.
 */
import { toBinary } from "@bufbuild/protobuf";
import { IngestResponseSchema } from "../../gen/runlog/v1/ingest_pb.js";
import type { IngestFrame } from "../ingest/ingest-stream.ts";
import type { Limits } from "../limits.ts";
import { envelopTogether } from "../wire/envelope.ts";
import {
  messageField,
  numberField,
  textField,
  utf8LengthOf,
  type WritableMessage,
} from "../wire/field-writer.ts";
import { toIngestResponse } from "./messages.ts";

const tagAck = 0x12; // IngestResponse.ack
const tagRunId = 0x0a; // AppendAck.run_id
const tagRunSeq = 0x10; // AppendAck.run_seq
const tagSeq = 0x18; // AppendAck.seq

type Ack = Extract<IngestFrame, { t: "ack" }>;

/** Frames in gRPC's envelopes, one behind the other. */
export function encodeFrames(frames: readonly IngestFrame[], limits: Limits): Uint8Array {
  return envelopTogether(
    frames.map((frame) =>
      frame.t === "ack"
        ? ackMessage(frame)
        : toBinary(IngestResponseSchema, toIngestResponse(frame, limits)),
    ),
  );
}

function ackMessage({ runId, runSeq, seq }: Ack): WritableMessage {
  const runIdBytes = utf8LengthOf(runId) ?? 0;
  const bytes = textField(runIdBytes) + numberField(runSeq) + numberField(seq);
  return {
    size: messageField(bytes),
    writeTo(out) {
      out.number(tagAck, bytes);
      out.text(tagRunId, runId, runIdBytes);
      if (runSeq > 0) out.number(tagRunSeq, runSeq);
      if (seq > 0) out.number(tagSeq, seq);
    },
  };
}
