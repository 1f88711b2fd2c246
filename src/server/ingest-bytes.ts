/**
 * The requests of IngestService with events as bytes. To Protobuf a message in a
 * message is bytes, so where events are declared so they are left as they arrived
 * instead of being decoded only to be stored encoded. JSON has no such bytes:
 * there the events are encoded.
 */
import { clone, createFileRegistry, type DescFile, toBinary } from "@bufbuild/protobuf";
import {
  FieldDescriptorProto_Type,
  type FileDescriptorProto,
  FileDescriptorProtoSchema,
} from "@bufbuild/protobuf/wkt";
import { type Event, EventSchema } from "../../gen/runlog/v1/event_pb.js";
import {
  type AppendEventsRequest,
  AppendEventsRequestSchema,
  file_runlog_v1_ingest as contract,
  type IngestRequest,
  IngestRequestSchema,
  IngestService,
} from "../../gen/runlog/v1/ingest_pb.js";
import type { AppendEventsBytes } from "../ingest/append-window.ts";
import type { IngestRequestBytes } from "../ingest/frames.ts";
import { scanAppend } from "../wire/append.ts";
import { parseJson, parseMessage } from "./parse-message.ts";

/**
 * The service whose events are bytes. Its descriptor is made at run time, so its
 * types are the contract's: its messages are read with `asIngestBytes` and
 * `asWindowBytes`.
 */
export const IngestBytesService = makeService();

function makeService(): typeof IngestService {
  const changed: FileDescriptorProto = clone(FileDescriptorProtoSchema, contract.proto);
  for (const field of changed.messageType.flatMap((message) => message.field)) {
    if (field.typeName !== `.${EventSchema.typeName}`) continue;
    field.type = FieldDescriptorProto_Type.BYTES;
    field.typeName = "";
  }
  const imported = new Map<string, DescFile>(
    contract.dependencies.map((file) => [file.proto.name, file]),
  );
  const service = createFileRegistry(changed, (name) => imported.get(name)).getService(
    IngestService.typeName,
  );
  if (service === undefined) throw new Error(`${IngestService.typeName} is not in its own file`);
  return service as typeof IngestService;
}

/**
 * Decodes a frame, and leaves its events as they are.
 *
 * @throws RefusedError for bytes that are no frame
 */
export function parseIngestBytes(message: Uint8Array): IngestRequestBytes {
  const append = scanAppend(message);
  if (append !== undefined) return { frame: { case: "append", value: append } };
  return parseMessage(
    IngestBytesService.method.ingest.input,
    message,
  ) as unknown as IngestRequestBytes;
}

/**
 * Decodes a frame in JSON.
 *
 * @throws RefusedError for bytes that are no frame
 */
export function parseIngestJson(message: Uint8Array): IngestRequestBytes {
  return toFrameBytes(parseJson(IngestRequestSchema, message));
}

/**
 * Decodes a window in JSON.
 *
 * @throws RefusedError for bytes that are none
 */
export function parseWindowJson(message: Uint8Array): AppendEventsBytes {
  return toWindowBytes(parseJson(AppendEventsRequestSchema, message));
}

/** A stream of the service with events as bytes. */
export async function* asIngestBytes(
  requests: AsyncIterable<IngestRequest>,
): AsyncGenerator<readonly IngestRequestBytes[]> {
  for await (const request of requests) yield [request as unknown as IngestRequestBytes];
}

/** A window of the service with events as bytes. */
export function asWindowBytes(request: AppendEventsRequest): AppendEventsBytes {
  return request as unknown as AppendEventsBytes;
}

function encoded(events: readonly Event[]): Uint8Array[] {
  return events.map((event) => toBinary(EventSchema, event));
}

/** A frame whose events are decoded, as the other service has it. */
export function toFrameBytes({ frame }: IngestRequest): IngestRequestBytes {
  if (frame.case !== "append") return { frame };
  return {
    frame: { case: "append", value: { ...frame.value, events: encoded(frame.value.events) } },
  };
}

/** A window whose events are decoded, as the other service has it. */
export function toWindowBytes(request: AppendEventsRequest): AppendEventsBytes {
  return { ...request, events: encoded(request.events) };
}
