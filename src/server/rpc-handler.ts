/**
 * Answers requests of either HTTP version with Connect's handlers. connect-node
 * has an adapter for this, but it writes to the console when a client goes
 * away in the middle of a response, which is no error here.
 */
import {
  type ConnectRouter,
  type ConnectRouterOptions,
  createConnectRouter,
} from "@connectrpc/connect";
import {
  compressionBrotli,
  compressionGzip,
  universalResponseToNodeResponse,
} from "@connectrpc/connect-node";
import { Arrivals } from "./arrivals.ts";
import { bodyPieces } from "./body-pieces.ts";
import { isConnectionLoss } from "./connection-loss.ts";
import { writePlainMessage } from "./grpc-message.ts";
import type { RequestHandler } from "./port.ts";
import type { Handling } from "./service-context.ts";
import { turnBudgetOf } from "./turn-budget.ts";
import { universalRequest } from "./universal-request.ts";

/** How the messages of a request are encoded. */
export type RequestFormat = "binary" | "json";

/** How to answer. */
export interface RpcHandlerOptions extends Handling {
  /** Registers the services, once for requests in each format. */
  readonly routes: (router: ConnectRouter, format: RequestFormat) => void;
  readonly router: ConnectRouterOptions;
  /** Milliseconds that one message may take to arrive. */
  readonly messageTimeoutMs: number;
  /** Answers what is no method of a service. */
  readonly fallback: RequestHandler;
}

/** Makes the handler. Compressed requests are understood. */
export function rpcHandler(options: RpcHandlerOptions): RequestHandler {
  const methodsOf = (format: RequestFormat) => {
    const router = createConnectRouter({
      acceptCompression: [compressionGzip, compressionBrotli],
      ...options.router,
    });
    options.routes(router, format);
    return new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
  };
  const methods = { binary: methodsOf("binary"), json: methodsOf("json") };
  return (request, response) => {
    const path = request.url?.split("?", 1)[0] ?? "";
    // As application/json, application/connect+json, application/grpc-web+json.
    const isJson = /\bjson\b/.test(request.headers["content-type"] ?? "");
    const handler = methods[isJson ? "json" : "binary"].get(path);
    if (handler === undefined) {
      options.fallback(request, response);
      return;
    }
    const contextValues = options.contextValues(
      "stream" in request ? request.stream.session : undefined,
    );
    const asked = universalRequest(request, response);
    const isEnveloped = !/^application\/(json|proto)\b/.test(
      asked.header.get("content-type") ?? "",
    );
    // What Node makes of an HTTP/2 stream costs more for each piece, and hides how many come.
    const source = "stream" in request ? request.stream : request;
    const arrivals = new Arrivals(source, turnBudgetOf(source), options.messageTimeoutMs);
    const body = bodyPieces(arrivals, isEnveloped);
    writePlainMessage(response);
    handler({ ...asked, body, contextValues })
      .then((answer) => universalResponseToNodeResponse(answer, response))
      .catch((error: unknown) => {
        if (!isConnectionLoss(error)) options.onFailure(path, error);
      });
  };
}
