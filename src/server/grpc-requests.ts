/** The messages of a gRPC request, all that have arrived at once: a stream of many small ones costs no promise for each. */
import type { ServerHttp2Stream } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import { EnvelopeReader } from "../envelopes.ts";
import { nextTurn } from "../turn.ts";

/** Bytes that wait to be taken before the client is made to wait. */
const maxWaitingBytes = 1024 * 1024;

/** What a request may do. */
export interface RequestBounds {
  /** Bytes of one message. */
  readonly maxBytes: number;
  /** Milliseconds that one message may take to arrive; between messages a stream may be silent. */
  readonly messageTimeoutMs: number;
}

/**
 * Reads a request's messages.
 *
 * @throws ConnectError for a message that is too large or late, and where the client has gone
 */
export async function* messageBatches(
  stream: ServerHttp2Stream,
  { maxBytes, messageTimeoutMs }: RequestBounds,
): AsyncGenerator<readonly Uint8Array[]> {
  const reader = new EnvelopeReader(maxBytes);
  let chunks: Uint8Array[] = [];
  let waitingBytes = 0;
  let isOver = false;
  let failure: ConnectError | undefined;
  let wake: () => void = () => undefined;
  let timer: NodeJS.Timeout | undefined;
  const fail = (error: ConnectError) => {
    failure ??= error;
    wake();
  };
  const onData = (chunk: Uint8Array) => {
    chunks.push(chunk);
    waitingBytes += chunk.length;
    if (waitingBytes > maxWaitingBytes) stream.pause();
    wake();
  };
  const onEnd = () => {
    isOver = true;
    wake();
  };
  const onGone = () => {
    if (!isOver) fail(new ConnectError("the client has gone", Code.Canceled));
  };
  const onLate = () => {
    const problem = `a message took longer than ${messageTimeoutMs} ms to arrive`;
    fail(new ConnectError(problem, Code.DeadlineExceeded));
  };
  stream.on("data", onData).on("end", onEnd).on("error", onGone).on("close", onGone);
  try {
    for (;;) {
      if (chunks.length === 0) {
        if (failure !== undefined) throw failure;
        if (isOver) break;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        // Node hands over one frame at a time, each in a turn of its promises:
        // after one of the event loop all are there that have arrived.
        await nextTurn();
        continue;
      }
      const taken = chunks;
      chunks = [];
      waitingBytes = 0;
      if (stream.isPaused()) stream.resume();
      const messages: Uint8Array[] = [];
      try {
        for (const chunk of taken) reader.take(chunk, messages);
      } catch (error) {
        // Those before it come first.
        failure = ConnectError.from(error);
        stream.off("data", onData);
      }
      if (messages.length > 0 || !reader.isInside) {
        clearTimeout(timer);
        timer = undefined;
      }
      if (reader.isInside) timer ??= setTimeout(onLate, messageTimeoutMs);
      if (messages.length > 0) yield messages;
    }
    if (reader.isInside) {
      throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
    }
  } finally {
    clearTimeout(timer);
    stream.off("data", onData).off("end", onEnd).off("error", onGone).off("close", onGone);
    // Its end is only seen where it is read.
    stream.resume();
  }
}
