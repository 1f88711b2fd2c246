/** Subscribe over gRPC, with what it brings decoded by decode.ts. */
import { type DescMessage, type DescMethodStreaming, toBinary } from "@bufbuild/protobuf";
import {
  createContextValues,
  type StreamRequest,
  type StreamResponse,
  type Transport,
} from "@connectrpc/connect";
import { runStreamingCall } from "@connectrpc/connect/protocol";
import { requestHeader } from "@connectrpc/connect/protocol-grpc";
import { type SubscribeResponse, SubscribeService } from "../../../gen/runlog/v1/subscribe_pb.js";
import { envelopTogether } from "../../wire/envelope.ts";
import { decodeSubscribeResponse } from "../../wire/subscribe-response.ts";
import { decodeBy, type GrpcCall } from "./grpc-call.ts";

/** The transport, of which Subscribe costs less. */
export function withFastSubscribe(transport: Transport, call: GrpcCall): Transport {
  return {
    unary: (...unary) => transport.unary(...unary),
    async stream<I extends DescMessage, O extends DescMessage>(
      ...streaming: Parameters<typeof transport.stream<I, O>>
    ): Promise<StreamResponse<I, O>> {
      const [method, signal, timeoutMs, header, message, contextValues] = streaming;
      if (!isSubscribe(method)) return transport.stream(...streaming);
      // As Connect does it: 0 is no deadline either.
      const deadlineMs = timeoutMs !== undefined && timeoutMs > 0 ? timeoutMs : undefined;
      return runStreamingCall<I, O>({
        ...(signal && { signal }),
        ...(deadlineMs !== undefined && { timeoutMs: deadlineMs }),
        req: {
          stream: true,
          service: method.parent,
          method,
          message,
          // The call knows better; only interceptors would look at it.
          requestMethod: "POST",
          url: "",
          header: requestHeader(true, deadlineMs, header),
          contextValues: contextValues ?? createContextValues(),
        },
        next: (request) => subscribeBy(call, request),
      });
    },
  };
}

function isSubscribe(method: DescMethodStreaming): boolean {
  return (method as unknown) === SubscribeService.method.subscribe;
}

async function subscribeBy<I extends DescMessage, O extends DescMessage>(
  call: GrpcCall,
  request: StreamRequest<I, O>,
): Promise<StreamResponse<I, O>> {
  const { method, header, signal } = request;
  const body = encoded(method.input, request.message);
  const { messages, ...response } = await call(method, { header, body, signal });
  return { ...request, ...response, message: decoded(messages) } as unknown as StreamResponse<I, O>;
}

async function* encoded<I extends DescMessage>(
  schema: I,
  messages: StreamRequest<I>["message"],
): AsyncGenerator<Uint8Array> {
  for await (const message of messages) yield envelopTogether([toBinary(schema, message)]);
}

async function* decoded(
  batches: AsyncIterable<readonly Uint8Array[]>,
): AsyncGenerator<SubscribeResponse> {
  for await (const messages of batches) {
    for (const message of messages) yield decodeBy(decodeSubscribeResponse, message);
  }
}
