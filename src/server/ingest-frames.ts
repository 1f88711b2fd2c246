/** Encodes the responses of an Ingest stream: by hand the acknowledgements, which most of them are. */
import { toBinary } from "@bufbuild/protobuf";
import { IngestResponseSchema } from "../../gen/runlog/v1/ingest_pb.js";
import type { IngestFrame } from "../ingest/frames.ts";
import type { Limits } from "../limits.ts";
import { ackMessage } from "../wire/ack.ts";
import { envelopTogether } from "../wire/envelope.ts";
import { toIngestResponse } from "./messages.ts";

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
