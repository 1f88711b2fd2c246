/** The messages of a gRPC request, all that have arrived at once: a stream of many small ones costs no promise for each. */
import type { ServerHttp2Stream } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import { yieldToEventLoop } from "../../event-loop.ts";
import type { MemoryShare } from "../../memory-budget.ts";
import { EnvelopeReader } from "../../wire/envelope.ts";
import { toEnvelopeFailure } from "../errors.ts";
import { Arrivals } from "./arrivals.ts";
import { turnBudgetOf } from "./turn-budget.ts";

/** Messages that are handed on in one turn of the event loop; a MiB can hold 200,000. */
const maxBatch = 1_024;

/** What a request may do. */
export interface RequestBounds {
  /** Bytes of one message. */
  readonly maxBytes: number;
  /** Milliseconds that one message may take to arrive; between messages a stream may be silent. */
  readonly messageTimeoutMs: number;
  /** For messages that have not arrived whole. */
  readonly memory: MemoryShare;
}

/**
 * Reads a request's messages.
 *
 * @throws ConnectError for a message that is too large or late, and when the client disconnects
 */
export async function* messageBatches(
  stream: ServerHttp2Stream,
  { maxBytes, messageTimeoutMs, memory }: RequestBounds,
): AsyncGenerator<readonly Uint8Array[]> {
  const arrivals = new Arrivals(stream, turnBudgetOf(stream), messageTimeoutMs, memory);
  const reader = new EnvelopeReader(maxBytes);
  try {
    for (;;) {
      const pieces = await arrivals.take(reader.heldBytes);
      if (pieces === undefined) break;
      const messages: Uint8Array[] = [];
      let failure: ConnectError | undefined;
      try {
        for (const piece of pieces) reader.take(piece, messages);
      } catch (error) {
        // Those before it come first.
        failure = toEnvelopeFailure(error, maxBytes);
      }
      if (messages.length > 0 || !reader.isInside) arrivals.startMessage();
      if (messages.length <= maxBatch) {
        if (messages.length > 0) yield messages;
      } else {
        yield* inTurns(messages);
      }
      if (failure !== undefined) throw failure;
    }
    if (reader.isInside) {
      throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
    }
  } finally {
    arrivals.close();
  }
}

async function* inTurns(messages: readonly Uint8Array[]): AsyncGenerator<readonly Uint8Array[]> {
  for (let at = 0; at < messages.length; at += maxBatch) {
    if (at > 0) await yieldToEventLoop();
    yield messages.slice(at, at + maxBatch);
  }
}
