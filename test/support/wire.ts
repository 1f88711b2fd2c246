/**
 * The clients that people have, behind one interface, so that one suite runs
 * over all of them:
 *
 *   gRPC      @grpc/grpc-js with the contract loaded from proto/ at run time
 *   gRPC      connect-node
 *   gRPC-Web  connect-node, HTTP/1.1
 *   Connect   connect-node, HTTP/2 with JSON, in both directions
 *   Connect   connect-node, HTTP/1.1 with JSON
 */
import { fileURLToPath } from "node:url";
import {
  create,
  type DescMethod,
  type DescService,
  fromBinary,
  type MessageInitShape,
  toBinary,
} from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { AnySchema, anyIs, anyUnpack } from "@bufbuild/protobuf/wkt";
import {
  type Client,
  type Code,
  ConnectError,
  createClient,
  type Interceptor,
  type Transport,
} from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import * as grpc from "@grpc/grpc-js";
import { load } from "@grpc/proto-loader";
import { Health } from "../../gen/grpc/health/v1/health_pb.js";
import { AdminService } from "../../gen/runlog/v1/admin_pb.js";
import { AuthService } from "../../gen/runlog/v1/auth_pb.js";
import { type ErrorDetail, ErrorDetailSchema } from "../../gen/runlog/v1/error_pb.js";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { journalKinds, type StartServer } from "./server.ts";
import { isThorough } from "./thorough.ts";

/** The services of a server, over one protocol. */
export interface WireClient {
  readonly runs: Client<typeof RunService>;
  readonly ingest: Client<typeof IngestService>;
  readonly subscribe: Client<typeof SubscribeService>;
  readonly admin: Client<typeof AdminService>;
  readonly auth: Client<typeof AuthService>;
  readonly health: Client<typeof Health>;
  close(): void;
}

/** What a client needs for `https://`, in PEM. */
export interface ClientTls {
  /** The authority of servers. */
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
}

/** A protocol. */
export interface Wire {
  readonly name: string;
  /** HTTP/1.1 carries no stream in both directions. */
  readonly isBidirectional: boolean;
  /** @param token the bearer token of every call */
  connect(url: string, token?: string, tls?: ClientTls): Promise<WireClient>;
}

/** What a refused call tells, whichever client made it. */
export interface WireRefusal {
  readonly code: Code;
  readonly detail: ErrorDetail | undefined;
}

/** Waits for a call to be refused. */
export async function refusalOf(call: Promise<unknown>): Promise<WireRefusal> {
  try {
    await call;
  } catch (error) {
    const refused = ConnectError.from(error);
    return { code: refused.code, detail: refused.findDetails(ErrorDetailSchema)[0] };
  }
  throw new Error("the call was not refused");
}

/** Reads a stream to its end. */
export async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of stream) items.push(item);
  return items;
}

function overTransport(transport: Transport, close: () => void): WireClient {
  return {
    runs: createClient(RunService, transport),
    ingest: createClient(IngestService, transport),
    subscribe: createClient(SubscribeService, transport),
    admin: createClient(AdminService, transport),
    auth: createClient(AuthService, transport),
    health: createClient(Health, transport),
    close,
  };
}

/** Sends a token with every call. */
function showing(token: string | undefined): Interceptor[] {
  if (token === undefined) return [];
  return [
    (next) => (request) => {
      request.header.set("authorization", `Bearer ${token}`);
      return next(request);
    },
  ];
}

/** Every wire over which the suite runs. */
export const wires: readonly Wire[] = [
  { name: "gRPC (@grpc/grpc-js)", isBidirectional: true, connect: connectGrpcJs },
  {
    name: "gRPC (connect-node)",
    isBidirectional: true,
    async connect(baseUrl, token, tls) {
      const sessionManager = new Http2SessionManager(baseUrl, {}, tls);
      const interceptors = showing(token);
      const transport = createGrpcTransport({ baseUrl, sessionManager, interceptors });
      return overTransport(transport, () => sessionManager.abort());
    },
  },
  {
    name: "gRPC-Web",
    isBidirectional: false,
    async connect(baseUrl, token, tls) {
      const transport = createGrpcWebTransport({
        interceptors: showing(token),
        baseUrl,
        httpVersion: "1.1",
        nodeOptions: tls ?? {},
      });
      return overTransport(transport, () => undefined);
    },
  },
  {
    name: "Connect (HTTP/2, JSON)",
    isBidirectional: true,
    async connect(baseUrl, token, tls) {
      const sessionManager = new Http2SessionManager(baseUrl, {}, tls);
      const transport = createConnectTransport({
        interceptors: showing(token),
        baseUrl,
        httpVersion: "2",
        useBinaryFormat: false,
        sessionManager,
      });
      return overTransport(transport, () => sessionManager.abort());
    },
  },
  {
    name: "Connect (HTTP/1.1, JSON)",
    isBidirectional: false,
    async connect(baseUrl, token, tls) {
      const transport = createConnectTransport({
        interceptors: showing(token),
        baseUrl,
        httpVersion: "1.1",
        nodeOptions: tls ?? {},
        useBinaryFormat: false,
      });
      return overTransport(transport, () => undefined);
    },
  },
];

/** Runs a suite over every wire, or those that are given. */
export function describeWire(
  name: string,
  suite: (wire: Wire) => void,
  over: readonly Wire[] = wires,
): void {
  for (const wire of over) {
    describe(`${name} over ${wire.name}`, () => {
      suite(wire);
    });
  }
}

/** One that streams in both directions, and one that does not: the first and the last. */
const fewWires = wires.filter((_, at) => at === 0 || at === wires.length - 1);

/**
 * Runs a suite over every wire, with servers on every kind of journal. A wire does not know
 * the journal: on PostgreSQL two of them suffice, and a thorough run has all.
 */
export function describeService(
  name: string,
  suite: (wire: Wire, startServer: StartServer) => void,
): void {
  for (const [kind, startServer] of Object.entries(journalKinds)) {
    const over = kind === "SQLite" || isThorough ? wires : fewWires;
    describeWire(
      `${name} on ${kind}`,
      (wire) => {
        suite(wire, startServer);
      },
      over,
    );
  }
}

const protoRoot = fileURLToPath(new URL("../../proto", import.meta.url));
const protoFiles = [
  "runlog/v1/run.proto",
  "runlog/v1/ingest.proto",
  "runlog/v1/subscribe.proto",
  "runlog/v1/admin.proto",
  "runlog/v1/auth.proto",
  "grpc/health/v1/health.proto",
];

async function connectGrpcJs(url: string, token?: string, tls?: ClientTls): Promise<WireClient> {
  const packages = await load(protoFiles, {
    includeDirs: [protoRoot],
    longs: String,
    defaults: true,
    oneofs: true,
  });
  const channel = new grpc.Client(new URL(url).host, grpcJsCredentials(tls));
  const metadata = new grpc.Metadata();
  if (token !== undefined) metadata.set("authorization", `Bearer ${token}`);
  const clientOf = <S extends DescService>(service: S): Client<S> => {
    const loaded = packages[service.typeName] as grpc.ServiceDefinition;
    const methods = service.methods.map((method) => [
      method.localName,
      grpcJsMethod(channel, method, loaded[method.name]!, metadata),
    ]);
    return Object.fromEntries(methods) as Client<S>;
  };
  return {
    runs: clientOf(RunService),
    ingest: clientOf(IngestService),
    subscribe: clientOf(SubscribeService),
    admin: clientOf(AdminService),
    auth: clientOf(AuthService),
    health: clientOf(Health),
    close: () => channel.close(),
  };
}

function grpcJsCredentials(tls: ClientTls | undefined): grpc.ChannelCredentials {
  if (tls === undefined) return grpc.credentials.createInsecure();
  const bytes = (pem: string | undefined) => (pem === undefined ? null : Buffer.from(pem));
  return grpc.credentials.createSsl(bytes(tls.ca), bytes(tls.key), bytes(tls.cert));
}

type Init = MessageInitShape<DescMethod["input"]>;
type Definition = grpc.MethodDefinition<object, object>;
interface CallOptions {
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

/**
 * One method as a Connect client has it. The messages pass through what
 * proto-loader made of the contract in both directions; only the objects that
 * it works with are turned into the generated ones for the tests.
 */
function grpcJsMethod(
  channel: grpc.Client,
  method: DescMethod,
  definition: Definition,
  metadata: grpc.Metadata,
) {
  const toObject = (message: Init): object =>
    definition.requestDeserialize(
      Buffer.from(toBinary(method.input, create(method.input, message))),
    );
  const fromObject = (object: object) =>
    fromBinary(method.output, definition.responseSerialize(object));
  const settings = ({ timeoutMs }: CallOptions): grpc.CallOptions =>
    timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
  const { path, requestSerialize, responseDeserialize } = definition;
  if (method.methodKind === "unary") {
    return (request: object, options: CallOptions = {}) =>
      new Promise((resolve, reject) => {
        channel.makeUnaryRequest(
          path,
          requestSerialize,
          responseDeserialize,
          toObject(request as Init),
          metadata,
          settings(options),
          (error, response) =>
            error ? reject(toConnectError(error)) : resolve(fromObject(response!)),
        );
      });
  }
  async function* frames(call: AsyncIterable<object> & { cancel(): void }, options: CallOptions) {
    const onAbort = () => call.cancel();
    options.signal?.addEventListener("abort", onAbort);
    if (options.signal?.aborted) onAbort();
    try {
      for await (const object of call) yield fromObject(object);
    } catch (error) {
      throw toConnectError(error as grpc.ServiceError);
    } finally {
      options.signal?.removeEventListener("abort", onAbort);
      call.cancel();
    }
  }
  if (method.methodKind === "server_streaming") {
    return (request: object, options: CallOptions = {}) =>
      frames(
        channel.makeServerStreamRequest(
          path,
          requestSerialize,
          responseDeserialize,
          toObject(request as Init),
          metadata,
          settings(options),
        ),
        options,
      );
  }
  return (requests: AsyncIterable<object>, options: CallOptions = {}) => {
    const call = channel.makeBidiStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      metadata,
      settings(options),
    );
    const writing = (async () => {
      for await (const request of requests) call.write(toObject(request as Init));
      call.end();
    })();
    writing.catch((error: Error) => call.destroy(error));
    return frames(call, options);
  };
}

/** The status of @grpc/grpc-js, with the details from the trailer that gRPC defines for them. */
function toConnectError(error: grpc.ServiceError): ConnectError {
  const refused = new ConnectError(error.details ?? error.message, error.code as number as Code);
  const [trailer] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (trailer === undefined) return refused;
  // google.rpc.Status: int32 code = 1; string message = 2; repeated Any details = 3.
  const reader = new BinaryReader(trailer as Buffer);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field !== 3) {
      reader.skip(wireType);
      continue;
    }
    const any = fromBinary(AnySchema, reader.bytes());
    if (!anyIs(any, ErrorDetailSchema)) continue;
    const value = anyUnpack(any, ErrorDetailSchema)!;
    refused.details.push({ desc: ErrorDetailSchema, value });
  }
  return refused;
}
