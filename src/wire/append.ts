/**
 * Takes an IngestRequest with an Append apart, as producers usually encode one:
 * each field once, in the order of its number. Events are left as they are.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/, with the field
 * numbers of IngestRequest and Append in `proto/runlog/v1/ingest.proto`.
 */
import type { Append } from "../../gen/runlog/v1/ingest_pb.js";
import { maxAppendEvents } from "../limits.ts";

const tagAppend = 0x12; // IngestRequest.append
const tagRunId = 0x0a; // Append.run_id
const tagFirstRunSeq = 0x10; // Append.first_run_seq
const tagEvents = 0x1a; // Append.events

/** An Append whose events are still encoded. */
export type AppendBytes = Omit<Append, "$typeName" | "events"> & {
  readonly events: readonly Uint8Array[];
};

/** The Append; undefined for anything else, or where it is not encoded in the usual way. */
export function scanAppend(bytes: Uint8Array): AppendBytes | undefined {
  const scanner = new Scanner(bytes);
  if (!scanner.takes(tagAppend) || scanner.length() !== bytes.length - scanner.at) return undefined;
  const runId = scanner.takes(tagRunId) ? scanner.ascii() : "";
  if (runId === undefined) return undefined;
  const firstRunSeq = scanner.takes(tagFirstRunSeq) ? scanner.varint() : 0;
  if (firstRunSeq === undefined) return undefined;
  const events: Uint8Array[] = [];
  while (scanner.takes(tagEvents)) {
    const length = scanner.length();
    if (length === undefined) return undefined;
    events.push(bytes.subarray(scanner.at, scanner.at + length));
    scanner.at += length;
    // It is refused for their number, whatever the rest is.
    if (events.length > maxAppendEvents) return { runId, firstRunSeq: BigInt(firstRunSeq), events };
  }
  if (scanner.at < bytes.length) return undefined;
  return { runId, firstRunSeq: BigInt(firstRunSeq), events };
}

class Scanner {
  readonly #bytes: Uint8Array;
  at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** Passes over a tag, if that is what stands here. */
  takes(tag: number): boolean {
    if (this.#bytes[this.at] !== tag) return false;
    this.at++;
    return true;
  }

  /** A length, if so many bytes follow. */
  length(): number | undefined {
    const length = this.varint();
    return length === undefined || length > this.#bytes.length - this.at ? undefined : length;
  }

  /** A number below 2^53. */
  varint(): number | undefined {
    let value = 0;
    for (let scale = 1; scale < 2 ** 49 && this.at < this.#bytes.length; scale *= 0x80) {
      const byte = this.#bytes[this.at++]!;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
    return undefined;
  }

  /** A text of ASCII. */
  ascii(): string | undefined {
    const length = this.length();
    if (length === undefined) return undefined;
    const end = this.at + length;
    for (let i = this.at; i < end; i++) {
      if (this.#bytes[i]! >= 0x80) return undefined;
    }
    const { buffer, byteOffset } = this.#bytes;
    const text = Buffer.from(buffer, byteOffset + this.at, length).toString("latin1");
    this.at = end;
    return text;
  }
}
