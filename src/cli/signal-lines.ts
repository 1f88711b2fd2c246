/**
 * The run's signals as lines of JSON for a command's standard input, and what the command's
 * own lines say of them.
 *
 * Invariant: a signal counts as handled with the line that answers it, in one commit, or,
 * where the flags say so, once it was written to the command.
 */
import type { Writable } from "node:stream";
import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  type EventInit,
  type RunSignal,
  SenderClosedError,
  SignalsPendingError,
  type WaitInit,
} from "../client/index.ts";
import { explain } from "./failure.ts";
import { notice } from "./output.ts";
import type { RecordedRun } from "./record-run.ts";

/** A command's line that is a JSON object. */
type JsonLine = Readonly<Record<string, unknown>>;

/** Signals of one command. */
export class SignalLines {
  readonly #sender: RecordedRun["sender"];
  readonly #handlesWhenWritten: boolean;
  /** The last one that the command could have read, or an earlier process of the run. */
  #lastWritten: number;

  /** @param handlesWhenWritten whether a signal counts as handled once the command could read it */
  constructor(
    { sender, handledSignalSeq }: Pick<RecordedRun, "sender" | "handledSignalSeq">,
    handlesWhenWritten: boolean,
  ) {
    this.#sender = sender;
    this.#lastWritten = handledSignalSeq;
    this.#handlesWhenWritten = handlesWhenWritten;
  }

  /** Writes signals until the run takes nothing more, or the command reads nothing more. Never rejects. */
  async write(input: Writable): Promise<void> {
    try {
      for await (const signal of this.#sender.signals()) {
        // Before it is written: the answer may come before the write has ended.
        this.#lastWritten = signal.signalSeq;
        await written(input, `${JSON.stringify(lineOf(signal))}\n`);
        if (this.#handlesWhenWritten) this.#sender.handle(signal.signalSeq);
      }
    } catch (error) {
      const isClosed = input.destroyed || (error as NodeJS.ErrnoException).code === "EPIPE";
      const why = isClosed ? "it has closed its standard input" : explain(error);
      notice(`the command gets no more signals: ${why}; they stay unhandled`);
    }
  }

  /** Gives an event to the run. A line of the command's standard output may say more about it. */
  readonly emit = (event: EventInit): void => {
    const said = event.attributes?.["stream"] === "stdout" ? objectOf(event.data) : undefined;
    this.#sender.emit(event, this.#answeredBy(said?.["signal_seq"]));
    const wait = said?.["wait"];
    if (wait !== undefined) void this.#wait(wait, event);
  };

  /** The last signal that a line answers; 0: none. */
  #answeredBy(signalSeq: unknown): number {
    if (signalSeq === undefined || this.#handlesWhenWritten) return 0;
    const isWritten =
      typeof signalSeq === "number" &&
      Number.isSafeInteger(signalSeq) &&
      signalSeq >= 1 &&
      signalSeq <= this.#lastWritten;
    if (isWritten) return signalSeq;
    notice(
      `a line has the signal_seq ${JSON.stringify(signalSeq)}, and the last signal was ${this.#lastWritten}: recorded as a line that answers none`,
    );
    return 0;
  }

  /** Lets the run wait, after this event and before the next one. */
  async #wait(wait: unknown, question: EventInit): Promise<void> {
    const wanted = waitOf(wait, question);
    if (wanted === undefined) {
      notice(
        'a line has a wait that is none, such as {"code": "approval", "deadline": "2027-01-01T00:00:00Z"}: ignored',
      );
      return;
    }
    try {
      await this.#sender.wait(wanted);
    } catch (error) {
      // The command has signals to read; why a run is over is reported with its end.
      if (error instanceof SignalsPendingError || error instanceof SenderClosedError) return;
      notice(`the run does not wait: ${explain(error)}`);
    }
  }
}

function lineOf({ signalSeq, signalId, sender, event }: RunSignal) {
  const { type, time, attributes, contentType } = event;
  return {
    signal_seq: signalSeq,
    signal_id: signalId,
    type,
    ...dataOf(event.data, contentType),
    ...(contentType === "" ? {} : { content_type: contentType }),
    ...(sender === "" ? {} : { sender }),
    ...(time === undefined ? {} : { time: timestampDate(time).toISOString() }),
    ...(Object.keys(attributes).length === 0 ? {} : { attributes }),
  };
}

/** JSON as it is, text as a string, anything else in Base64. */
function dataOf(data: Uint8Array, contentType: string): object {
  if (data.length === 0) return {};
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(data);
    if (contentType.startsWith("text/")) return { data: text };
    return { data: JSON.parse(text) as unknown };
  } catch {
    return { data_base64: Buffer.from(data).toString("base64") };
  }
}

function objectOf(line: Uint8Array | undefined): JsonLine | undefined {
  // "{"
  if (line?.[0] !== 0x7b) return undefined;
  try {
    return JSON.parse(Buffer.from(line).toString()) as JsonLine;
  } catch {
    return undefined;
  }
}

function waitOf(
  wait: unknown,
  { type = "", data = new Uint8Array(), contentType = "" }: EventInit,
): WaitInit | undefined {
  if (typeof wait !== "object" || wait === null) return undefined;
  const { code, deadline } = wait as JsonLine;
  if (typeof code !== "string") return undefined;
  const until = typeof deadline === "string" ? new Date(deadline) : undefined;
  if (until !== undefined && Number.isNaN(until.getTime())) return undefined;
  const question = { type, data, contentType };
  return until === undefined
    ? { code, question }
    : { code, question, deadline: timestampFromDate(until) };
}

function written(input: Writable, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    input.write(text, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}
