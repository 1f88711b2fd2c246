/**
 * A call's request messages, parsed. Connect's handlers decode what they are
 * given without looking at it first, so they are given empty messages, one for
 * each that came (`http/request-body.ts`), and the services take the real ones from
 * here, in order. What is wrong with a message is thrown where it is taken: it
 * ends its call as any other refusal does, after what came before it.
 */
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { createContextKey, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import { SubscribeManyRequestSchema } from "../../gen/runlog/v1/subscribe_pb.js";
import { checkMessage } from "../validate.ts";
import {
  IngestBytesService,
  parseIngestBytes,
  parseIngestJson,
  parseWindowJson,
} from "./ingest-bytes.ts";
import { parseJson, parseMessage } from "./parse-message.ts";

/** How the messages of a request are encoded. */
export type RequestFormat = "binary" | "json";

/** Turns the bytes of one message into what the service's method takes; throws RefusedError. */
type Parse = (bytes: Uint8Array) => unknown;

/** Messages that wait to be taken. */
export class RequestMessages {
  readonly #waiting: (() => unknown)[] = [];

  /** Adds a message, or the error to throw in its place. */
  push(message: () => unknown): void {
    this.#waiting.push(message);
  }

  /** Takes the next message. */
  take(): unknown {
    const message = this.#waiting.shift();
    if (message === undefined) throw new Error("a request message was taken before it came");
    return message();
  }
}

/** Where a call's messages are. */
export const requestMessages = createContextKey(new RequestMessages());

/** How a method's messages are parsed; those of a unary call, and of Subscribe, are checked whole. */
export function parserOf(method: DescMethod, format: RequestFormat): Parse {
  const isBinary = format === "binary";
  const { ingest, appendEvents } = IngestBytesService.method;
  switch (`${method.parent.typeName}.${method.name}`) {
    // Frames are checked one by one: a mistake in one concerns its run alone.
    case `${ingest.parent.typeName}.${ingest.name}`:
      return isBinary ? parseIngestBytes : parseIngestJson;
    case `${appendEvents.parent.typeName}.${appendEvents.name}`:
      return checked(appendEvents, isBinary ? undefined : parseWindowJson);
    default: {
      const { input } = method;
      // Subscriptions that share a call are checked one by one too.
      if (method.methodKind === "bidi_streaming" || input === SubscribeManyRequestSchema) {
        return (bytes) => (isBinary ? parseMessage : parseJson)(input, bytes);
      }
      return checked(method, isBinary ? undefined : (bytes) => parseJson(input, bytes));
    }
  }
}

function checked(
  { input }: DescMethod,
  parse: Parse = (bytes) => parseMessage(input, bytes),
): Parse {
  return (bytes) => {
    const message = parse(bytes);
    checkMessage("", input, message as never);
    return message;
  };
}

type Method = (request: unknown, call: HandlerContext) => unknown;

/** Makes a service take its messages from here. */
export function takingMessages<Service extends DescService>(
  service: Service,
  implementation: ServiceImpl<Service>,
): ServiceImpl<Service> {
  const methods = implementation as Readonly<Record<string, Method>>;
  const taking = service.methods.map((method): [string, Method] => {
    const answer = methods[method.localName]!;
    const { methodKind } = method;
    if (methodKind === "bidi_streaming" || methodKind === "client_streaming") {
      return [
        method.localName,
        (empty, call) => answer(each(empty as AsyncIterable<unknown>, call), call),
      ];
    }
    return [method.localName, (_, call) => answer(call.values.get(requestMessages).take(), call)];
  });
  return Object.fromEntries(taking) as ServiceImpl<Service>;
}

async function* each(empty: AsyncIterable<unknown>, call: HandlerContext): AsyncGenerator<unknown> {
  const messages = call.values.get(requestMessages);
  for await (const _ of empty) yield messages.take();
}
