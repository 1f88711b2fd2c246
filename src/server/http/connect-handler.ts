/**
 * Answers requests of either HTTP version with Connect's handlers. connect-node
 * has an adapter for this, but it writes to the console when a client goes
 * away in the middle of a response, which is no error here.
 */
import {
  type ConnectError,
  type ConnectRouter,
  type ConnectRouterOptions,
  createConnectRouter,
} from "@connectrpc/connect";
import { compressionBrotli, compressionGzip } from "@connectrpc/connect-node";
import type { MemoryBudget } from "../../memory-budget.ts";
import type { OnUnexpected } from "../errors.ts";
import { RequestMessages, requestMessages } from "../request-messages.ts";
import type { Handling } from "../service-context.ts";
import { Arrivals } from "./arrivals.ts";
import { bodyPieces } from "./body-pieces.ts";
import { isConnectionLoss } from "./connection-loss.ts";
import { sendHeadersFirst } from "./early-headers.ts";
import { writePlainMessage } from "./grpc-message.ts";
import { peerOf } from "./peer.ts";
import type { RequestHandler } from "./port.ts";
import {
  isEnveloped,
  type RequestReading,
  refusedRequest,
  withoutMessages,
} from "./request-body.ts";
import { turnBudgetOf } from "./turn-budget.ts";
import { universalRequest } from "./universal-request.ts";
import { writeResponse } from "./universal-response.ts";

/** How to answer. */
export interface RpcHandlerOptions extends Handling {
  /** Registers the services, which take their messages from `request-messages.ts`. */
  readonly routes: (router: ConnectRouter) => void;
  readonly router: ConnectRouterOptions;
  /** Bytes of one message, decompressed or not. */
  readonly maxMessageBytes: number;
  readonly onUnexpected: OnUnexpected;
  /** Milliseconds that one message may take to arrive. */
  readonly messageTimeoutMs: number;
  /** For messages that have not arrived whole, and answers that are not read. */
  readonly memory: Pick<MemoryBudget, "messages" | "frames">;
  /** Answers requests to unknown methods. */
  readonly fallback: RequestHandler;
}

const compressions = [compressionGzip, compressionBrotli];

/** Makes the handler. Compressed requests are understood. */
export function rpcHandler(options: RpcHandlerOptions): RequestHandler {
  const router = createConnectRouter({ acceptCompression: compressions, ...options.router });
  options.routes(router);
  const methods = new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
  const { maxMessageBytes: maxBytes, onUnexpected } = options;
  const reading: RequestReading = { compressions, maxBytes, onUnexpected };
  return (request, response) => {
    const path = request.url?.split("?", 1)[0] ?? "";
    const handler = methods.get(path);
    if (handler === undefined) {
      options.fallback(request, response);
      return;
    }
    const contextValues = options.contextValues(
      "stream" in request ? request.stream.session : undefined,
    );
    const messages = new RequestMessages();
    contextValues.set(requestMessages, messages);
    const asked = universalRequest(request, response);
    // What Node makes of an HTTP/2 stream costs more for each piece, and hides how many come.
    const source = "stream" in request ? request.stream : request;
    const arrivals = new Arrivals(
      source,
      turnBudgetOf(source),
      options.messageTimeoutMs,
      options.memory.messages,
    );
    const body = bodyPieces(arrivals, isEnveloped(asked.header));
    writePlainMessage(response);
    sendHeadersFirst(handler.method, request, response);
    const call = { ...asked, body, contextValues };
    const admission = options.admit(handler.method, request.headers, contextValues, peerOf(source));
    const take = (refusal: ConnectError | undefined) =>
      refusal === undefined
        ? withoutMessages(handler.method, call, messages, reading)
        : refusedRequest(call, messages, refusal);
    (admission instanceof Promise ? admission.then(take) : Promise.resolve(take(admission)))
      .then(handler)
      .then((answer) => writeResponse(answer, response, options.memory.frames))
      .catch((error: unknown) => {
        if (!isConnectionLoss(error)) options.onFailure(path, error);
      })
      // Also where the handler refused the request without reading it.
      .finally(() => arrivals.close());
  };
}
