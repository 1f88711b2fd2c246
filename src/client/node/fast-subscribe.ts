/**
 * Subscribe over a transport that speaks Protobuf's binary encoding, with what it
 * brings decoded by decode.ts: the transport is told that responses have no
 * fields, so it hands their bytes on as fields that it does not know.
 */
import type { DescMessage } from "@bufbuild/protobuf";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { type Empty, EmptySchema } from "@bufbuild/protobuf/wkt";
import type { StreamResponse, Transport } from "@connectrpc/connect";
import { type SubscribeResponse, SubscribeService } from "../../../gen/runlog/v1/subscribe_pb.js";
import { decodeSubscribeResponse } from "../decode.ts";

const { subscribe } = SubscribeService.method;
const undecoded = { ...subscribe, output: EmptySchema };

/** The transport, of which Subscribe costs less. */
export function withFastSubscribe(transport: Transport): Transport {
  return {
    unary: (...call) => transport.unary(...call),
    async stream<I extends DescMessage, O extends DescMessage>(
      ...[method, ...rest]: Parameters<typeof transport.stream<I, O>>
    ): Promise<StreamResponse<I, O>> {
      if (!isSubscribe(method)) return transport.stream(method, ...rest);
      const response = await transport.stream(undecoded as unknown as typeof method, ...rest);
      const message = decoded(response.message as unknown as AsyncIterable<Empty>);
      return { ...response, method, message } as unknown as StreamResponse<I, O>;
    },
  };
}

function isSubscribe(method: object): boolean {
  return method === subscribe;
}

async function* decoded(messages: AsyncIterable<Empty>): AsyncIterable<SubscribeResponse> {
  for await (const { $unknown: fields = [] } of messages) {
    const writer = new BinaryWriter();
    for (const { no, wireType, data } of fields) writer.tag(no, wireType).raw(data);
    yield decodeSubscribeResponse(writer.finish());
  }
}
