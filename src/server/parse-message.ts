/** Messages in Protobuf's binary encoding. */
import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";

/**
 * Decodes a message.
 *
 * @throws ConnectError for what is none, as Connect's own handlers do
 */
export function parseMessage<Desc extends DescMessage>(
  schema: Desc,
  bytes: Uint8Array,
): MessageShape<Desc> {
  try {
    return fromBinary(schema, bytes);
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    throw new ConnectError(`parse binary: ${problem}`, Code.Internal);
  }
}
