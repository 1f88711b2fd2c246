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
  readonly #failed: AbortSignal;
  readonly #handlesWhenWritten: boolean;
  /** The last one that the command could have read, or an earlier process of the run. */
  #lastWritten: number;

  /** @param handlesWhenWritten whether a signal counts as handled once the command could read it */
  constructor(
    {
      sender,
      failed,
      handledSignalSeq,
    }: Pick<RecordedRun, "sender" | "failed" | "handledSignalSeq">,
    handlesWhenWritten: boolean,
  ) {
    this.#sender = sender;
    this.#failed = failed;
    this.#lastWritten = handledSignalSeq;
    this.#handlesWhenWritten = handlesWhenWritten;
  }

  /**
   * Writes signals until the command reads nothing more, or the run takes nothing more: then
   * the input ends, for which a command may wait in vain. Never rejects.
   */
  async write(input: Writable): Promise<void> {
    try {
      for await (const signal of this.#sender.signals()) {
        // Before it is written: the answer may come before the write has ended.
        this.#lastWritten = signal.signalSeq;
        await written(input, lineOf(signal));
        if (this.#handlesWhenWritten) this.#sender.handle(signal.signalSeq);
      }
      if (!this.#failed.aborted) return;
      notice(`the command gets no more signals: ${explain(this.#failed.reason)}`);
      input.end();
    } catch (error) {
      const isClosed = input.destroyed || (error as NodeJS.ErrnoException).code === "EPIPE";
      const why = isClosed ? "it has closed its standard input" : explain(error);
      notice(`the command gets no more signals: ${why}; they stay unhandled`);
    }
  }

  /** Gives an event to the run. A line of the command's standard output may say more about it. */
  readonly emit = (event: EventInit): void => {
    const said = event.attributes?.["stream"] === "stdout" ? saidBy(event) : undefined;
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
    // Of anything but a number only that it is none: it may have any size.
    const which =
      typeof signalSeq === "number"
        ? `the signal_seq ${signalSeq}`
        : "a signal_seq that is no number";
    notice(
      `a line has ${which}, and the last signal was ${this.#lastWritten}: recorded as a line that answers none`,
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

/** A signal as a line of JSON. */
function lineOf({ signalSeq, signalId, sender, event }: RunSignal): string {
  const { type, time, attributes, contentType } = event;
  const members: Record<string, string> = {
    signal_seq: JSON.stringify(signalSeq),
    signal_id: JSON.stringify(signalId),
    type: JSON.stringify(type),
    ...dataOf(event.data, contentType),
  };
  if (contentType !== "") members["content_type"] = JSON.stringify(contentType);
  if (sender !== "") members["sender"] = JSON.stringify(sender);
  if (time !== undefined) members["time"] = JSON.stringify(timestampDate(time));
  if (Object.keys(attributes).length > 0) members["attributes"] = JSON.stringify(attributes);
  const text = Object.entries(members).map(([name, json]) => `"${name}":${json}`);
  return `{${text.join(",")}}\n`;
}

/** JSON as it was sent, text as a string, anything else in Base64: a member in JSON. */
function dataOf(data: Uint8Array, contentType: string): Record<string, string> {
  if (data.length === 0) return {};
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(data);
    if (contentType.startsWith("text/")) return { data: JSON.stringify(text) };
    JSON.parse(text);
    // Not what was parsed, in which numbers are rounded. Line breaks in JSON are spaces.
    return { data: text.replaceAll(/[\r\n]/g, " ").trim() };
  } catch {
    return { data_base64: JSON.stringify(Buffer.from(data).toString("base64")) };
  }
}

/** What the JSON of a line says; undefined where it is none. */
function saidBy({ contentType, data = new Uint8Array() }: EventInit): JsonLine | undefined {
  // As eventOfLine has found out.
  if (contentType !== "application/json") return undefined;
  const value: unknown = JSON.parse(Buffer.from(data).toString());
  return typeof value === "object" && value !== null ? (value as JsonLine) : undefined;
}

function waitOf(
  wait: unknown,
  { type = "", data = new Uint8Array(), contentType = "" }: EventInit,
): WaitInit | undefined {
  if (typeof wait !== "object" || wait === null) return undefined;
  const { code, deadline } = wait as JsonLine;
  if (typeof code !== "string") return undefined;
  const hasDeadline = deadline !== undefined && deadline !== null;
  // Not without an end, where one is meant.
  if (hasDeadline && typeof deadline !== "string") return undefined;
  const until = hasDeadline ? new Date(deadline) : undefined;
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
