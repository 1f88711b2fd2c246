/** Calls that end in time, whatever the connection does. */
import type { DescMessage } from "@bufbuild/protobuf";
import { Code, ConnectError, type StreamResponse, type Transport } from "@connectrpc/connect";
import { NoAnswerError } from "../errors.ts";
import { orAbort } from "../or-abort.ts";

/** Milliseconds of a unary call that sets no deadline: the slowest one waits for a database to come back. */
const unaryTimeoutMs = 60_000;

/**
 * The transport with bounds: unary calls get a deadline, streams have to be answered in
 * time, and an aborted signal ends both at once, while the connection is made too.
 *
 * @param answerTimeoutMs for the headers of a stream's answer
 */
export function withBounds(transport: Transport, answerTimeoutMs: number): Transport {
  return {
    async unary(method, signal, timeoutMs = unaryTimeoutMs, ...rest) {
      const deadlineMs = timeoutMs > 0 ? timeoutMs : undefined;
      const given = deadlineMs === undefined ? undefined : Math.ceil(deadlineMs);
      try {
        const answer = transport.unary(method, signal, given, ...rest);
        return await orAbort(answer, signal, deadlineMs, "answer");
      } catch (error) {
        throw toConnectError(error);
      }
    },
    async stream<I extends DescMessage, O extends DescMessage>(
      ...call: Parameters<Transport["stream"]>
    ): Promise<StreamResponse<I, O>> {
      const [method, signal, ...rest] = call;
      const own = new AbortController();
      const signals = signal === undefined ? own.signal : AbortSignal.any([signal, own.signal]);
      const answer = transport.stream(method, signals, ...rest);
      try {
        const response = await orAbort(answer, signal, answerTimeoutMs, "answer");
        return response as unknown as StreamResponse<I, O>;
      } catch (error) {
        own.abort(error);
        throw toConnectError(error);
      }
    },
  };
}

/** As Connect reports it: a deadline that passed, or a call that was given up. */
function toConnectError(error: unknown): ConnectError {
  const code = error instanceof NoAnswerError ? Code.DeadlineExceeded : Code.Canceled;
  return ConnectError.from(error, code);
}
