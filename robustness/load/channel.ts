/** gRPC with @grpc/grpc-js: what a client in another language would see of a server. */
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { AnySchema, anyUnpack } from "@bufbuild/protobuf/wkt";
import {
  Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  credentials,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";

/** A method as it is generated; its kind is the caller's to know. */
export interface Method<I extends DescMessage, O extends DescMessage> {
  readonly input: I;
  readonly output: O;
  readonly name: string;
  readonly parent: { readonly typeName: string };
}

/** How a call ended that did not end well. */
export class CallFailure extends Error {
  /** gRPC's number. */
  readonly code: number;
  /** Of the ErrorDetail, without REASON_; "" where there was none. */
  readonly reason: string;
  /** Whether this client gave up by itself. */
  readonly isLocal: boolean;

  constructor(error: ServiceError) {
    super(error.details ?? error.message);
    this.name = "CallFailure";
    this.code = error.code;
    this.reason = reasonOf(error);
    this.isLocal = error.code === status.CANCELLED || error.code === status.DEADLINE_EXCEEDED;
  }
}

const channelOptions = {
  "grpc.max_receive_message_length": -1,
  "grpc.use_local_subchannel_pool": 1,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 500,
  // A suspended server, or a network that swallows everything, is noticed.
  "grpc.keepalive_time_ms": 4_000,
  "grpc.keepalive_timeout_ms": 4_000,
} as const;

/** A connection of its own to one server. */
export class Channel {
  readonly #client: Client;

  constructor(url: string) {
    this.#client = new Client(new URL(url).host, credentials.createInsecure(), channelOptions);
  }

  close(): void {
    this.#client.close();
  }

  /** @throws CallFailure */
  unary<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageInitShape<I>,
    timeoutMs: number,
  ): Promise<MessageShape<O>> {
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        pathOf(method),
        encoderOf(method.input),
        decoderOf(method.output),
        request,
        { deadline: Date.now() + timeoutMs },
        (error, response) => {
          if (error === null) resolve(response!);
          else reject(new CallFailure(error));
        },
      );
    });
  }

  /** Calls a method that answers with a stream; its errors are `failureOf`'s. */
  serverStream<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageInitShape<I>,
    timeoutMs: number,
  ): ClientReadableStream<MessageShape<O>> {
    const deadline = Date.now() + timeoutMs;
    const { input, output } = method;
    const path = pathOf(method);
    return this.#client.makeServerStreamRequest(
      path,
      encoderOf(input),
      decoderOf(output),
      request,
      {
        deadline,
      },
    );
  }

  /** Opens a stream in both directions. */
  duplex<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    timeoutMs: number,
  ): ClientDuplexStream<MessageInitShape<I>, MessageShape<O>> {
    const deadline = Date.now() + timeoutMs;
    const { input, output } = method;
    return this.#client.makeBidiStreamRequest(pathOf(method), encoderOf(input), decoderOf(output), {
      deadline,
    });
  }
}

/** How a call failed, from the error that its stream emitted. */
export function failureOf(error: Error): CallFailure {
  return error instanceof CallFailure ? error : new CallFailure(error as ServiceError);
}

/** A reason's name as histories have it. */
export function reasonName(reason: Reason): string {
  return Reason[reason] ?? String(reason);
}

function pathOf(method: Method<DescMessage, DescMessage>): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function encoderOf<I extends DescMessage>(input: I) {
  return (message: MessageInitShape<I>) => Buffer.from(toBinary(input, create(input, message)));
}

function decoderOf<O extends DescMessage>(output: O) {
  return (bytes: Buffer): MessageShape<O> => fromBinary(output, bytes);
}

/** google.rpc.Status: int32 code = 1; string message = 2; repeated Any details = 3. */
function reasonOf(error: ServiceError): string {
  const [trailer] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (trailer === undefined) return "";
  const reader = new BinaryReader(trailer as Buffer);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field !== 3) {
      reader.skip(wireType);
      continue;
    }
    const detail = anyUnpack(fromBinary(AnySchema, reader.bytes()), ErrorDetailSchema);
    if (detail !== undefined) return reasonName(detail.reason);
  }
  return "";
}
