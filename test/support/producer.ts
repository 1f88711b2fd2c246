/** A producer over the wire, frame by frame. */
import assert from "node:assert/strict";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type ErrorDetail, Reason } from "../../gen/runlog/v1/error_pb.js";
import type { IngestRequestSchema, IngestResponse } from "../../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import type { WireClient } from "./wire.ts";

/** A frame of a producer. */
export type Request = MessageInitShape<typeof IngestRequestSchema>;
/** A frame of the server. */
export type Answer = IngestResponse["frame"];

/** What two producers may have in common. */
export const spec = { agentId: "agent", conversationId: "conversation" };
/** Events with these payloads. */
export const eventsOf = (...texts: string[]) =>
  texts.map((text) => ({ type: "test", data: Buffer.from(text) }));
/** Opens a run; null takes one that exists. */
export const open = (runId: string, create: object | null = spec): Request => ({
  frame: { case: "open", value: { runId, ...(create === null ? {} : { create }) } },
});
/** Appends events with these payloads. */
export const append = (runId: string, first: number, ...texts: string[]): Request => ({
  frame: {
    case: "append",
    value: { runId, firstRunSeq: BigInt(first), events: eventsOf(...texts) },
  },
});
/** Finishes a run. */
export const finish = (
  runId: string,
  last: number,
  result: object = { state: RunState.SUCCEEDED },
): Request => ({
  frame: { case: "finish", value: { runId, lastRunSeq: BigInt(last), result } },
});

/** Opens a run and receives its signals. */
export const openInput = (runId: string, create: object | null = spec): Request => ({
  frame: {
    case: "open",
    value: { runId, receiveSignals: true, ...(create === null ? {} : { create }) },
  },
});
/** Appends events that answer the signals up to one. */
export const answer = (
  runId: string,
  handledSignalSeq: number,
  first: number,
  ...texts: string[]
): Request => ({
  frame: {
    case: "append",
    value: {
      runId,
      firstRunSeq: BigInt(first),
      events: eventsOf(...texts),
      handledSignalSeq: BigInt(handledSignalSeq),
    },
  },
});
/** Lets a run wait. */
export const wait = (runId: string, last: number, code = "input", rest: object = {}): Request => ({
  frame: { case: "wait", value: { runId, lastRunSeq: BigInt(last), wait: { code }, ...rest } },
});

/** Leaves a run. */
export const release = (runId: string): Request => ({
  frame: { case: "release", value: { runId } },
});

type ValueOf<C> = Exclude<Extract<Answer, { value: object }> & { case: C }, never>["value"];

function toText(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}

/** An Ingest stream whose answers are read one by one. */
export class Stream {
  readonly #answers: AsyncIterator<IngestResponse>;
  #waiting: Request[] = [];
  #isClosed = false;
  #wake: (() => void) | undefined;

  constructor(client: WireClient) {
    this.#answers = client.ingest.ingest(this.#requests())[Symbol.asyncIterator]();
  }

  async *#requests(): AsyncGenerator<Request> {
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

  halfClose(): void {
    this.#isClosed = true;
    this.#wake?.();
  }

  /** The next answer; undefined at the end of the stream. */
  async next(): Promise<Answer | undefined> {
    const { done, value } = await this.#answers.next();
    return done === true ? undefined : value.frame;
  }

  async expect<C extends NonNullable<Answer["case"]>>(expected: C): Promise<ValueOf<C>> {
    const frame = await this.next();
    assert.equal(frame?.case, expected, `${frame?.case}: ${JSON.stringify(frame, toText)}`);
    return frame!.value as ValueOf<C>;
  }

  async expectRejected(reason: Reason): Promise<ErrorDetail> {
    const { detail } = await this.expect("rejected");
    assert.equal(Reason[detail!.reason], Reason[reason]);
    return detail!;
  }
}
