/** Consumers over the wire with many subscriptions on one call, frame by frame. */
import assert from "node:assert/strict";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type ErrorDetail, Reason } from "../../gen/runlog/v1/error_pb.js";
import type { EventFilterSchema, SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import {
  type SubscribeManyResponse,
  type SubscribeRequest,
  SubscribeRequestSchema,
  type SubscribeResponse,
  type WatchRequestSchema,
  type WatchResponse,
} from "../../gen/runlog/v1/subscribe_pb.js";
import type { WireClient } from "./wire.ts";

type Request = MessageInitShape<typeof WatchRequestSchema>;
type Filter = MessageInitShape<typeof EventFilterSchema>;
type Rest = Omit<
  Exclude<MessageInitShape<typeof SubscribeRequestSchema>, SubscribeRequest>,
  "$typeName" | "filter"
>;
type Inner = SubscribeResponse["frame"];

/** A call with many subscriptions whose answers are read one by one. */
class NamedFrames<T extends WatchResponse | SubscribeManyResponse> {
  readonly #answers: AsyncIterator<T>;
  readonly #abort = new AbortController();

  /** @param call begins the call, which ends with the signal */
  constructor(call: (signal: AbortSignal) => AsyncIterable<T>) {
    this.#answers = call(this.#abort.signal)[Symbol.asyncIterator]();
  }

  /** Ends the call. */
  cancel(): void {
    this.#abort.abort();
  }

  /** The next answer; undefined at the end of the call. */
  async next(): Promise<T | undefined> {
    const { done, value } = await this.#answers.next();
    return done === true ? undefined : value;
  }

  /** The next frame, which is one of this subscription's. */
  async expect<C extends NonNullable<Inner["case"]>>(id: number, expected: C) {
    const answer = await this.next();
    assert.equal(answer?.subscriptionId, id);
    const { frame } = answer;
    assert.ok(frame.case === "response", `${frame.case}`);
    assert.equal(frame.value.frame.case, expected);
    return frame.value.frame as Extract<Inner, { case: C }>;
  }

  /** The next frame, which brings records of this subscription. */
  async records(id: number): Promise<SequencedEvent[]> {
    return (await this.expect(id, "events")).value.events;
  }

  /** The next frame, which ends this subscription; the detail where it was refused. */
  async ended(id: number): Promise<ErrorDetail | undefined> {
    const answer = await this.next();
    assert.deepEqual([answer?.subscriptionId, answer?.frame.case], [id, "ended"]);
    return answer!.frame.case === "ended" ? answer!.frame.value.detail : undefined;
  }
}

/** The requests of a Watch call, until it is half-closed. */
class Requests {
  readonly #waiting: Request[] = [];
  #isClosed = false;
  #wake: (() => void) | undefined;

  async *sent(): AsyncGenerator<Request> {
    for (;;) {
      yield* this.#waiting.splice(0);
      if (this.#isClosed && this.#waiting.length === 0) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        if (this.#waiting.length > 0 || this.#isClosed) resolve();
      });
    }
  }

  send(...requests: Request[]): void {
    this.#waiting.push(...requests);
    this.#wake?.();
  }

  close(): void {
    this.#isClosed = true;
    this.#wake?.();
  }
}

/** A Watch call. */
export class Watcher extends NamedFrames<WatchResponse> {
  readonly #requests: Requests;

  constructor(client: WireClient) {
    const requests = new Requests();
    super((signal) => client.subscribe.watch(requests.sent(), { signal }));
    this.#requests = requests;
  }

  send(...requests: Request[]): void {
    this.#requests.send(...requests);
  }

  start(subscriptionId: number, filter: Filter, rest: Rest = {}, initialGrant = 0): void {
    const request = create(SubscribeRequestSchema, { ...rest, filter });
    this.send({ subscriptionId, frame: { case: "start", value: { request, initialGrant } } });
  }

  changeFilter(subscriptionId: number, filter: Filter): void {
    this.send({ subscriptionId, frame: { case: "changeFilter", value: filter as never } });
  }

  grant(subscriptionId: number, value: number): void {
    this.send({ subscriptionId, frame: { case: "grant", value } });
  }

  stop(subscriptionId: number): void {
    this.send({ subscriptionId, frame: { case: "stop", value: {} } });
  }

  halfClose(): void {
    this.#requests.close();
  }

  /** The next frame, which says from where on this subscription's new filter holds. */
  async filterChanged(id: number): Promise<bigint> {
    const answer = await this.next();
    assert.deepEqual([answer?.subscriptionId, answer?.frame.case], [id, "filterChanged"]);
    return answer!.frame.case === "filterChanged" ? answer!.frame.value.seq : -1n;
  }
}

/** What each subscription of a SubscribeMany call asks for, by its id. */
export type Asked = Readonly<Record<number, MessageInitShape<typeof SubscribeRequestSchema>>>;

/** A SubscribeMany call. */
export class ManySubscriber extends NamedFrames<SubscribeManyResponse> {
  constructor(client: WireClient, asked: Asked) {
    const subscriptions = Object.entries(asked).map(([id, request]) => ({
      subscriptionId: Number(id),
      request,
    }));
    super((signal) => client.subscribe.subscribeMany({ subscriptions }, { signal }));
  }
}

/** The name of a refusal's reason. */
export const reasonOf = (detail: ErrorDetail | undefined): string => Reason[detail?.reason ?? 0]!;
