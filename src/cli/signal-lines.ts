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
  type RunSignal,
  SenderClosedError,
  SignalsPendingError,
  type WaitInit,
} from "../client/index.ts";
import { explain } from "./failure.ts";
import { eventOfLine } from "./line-event.ts";
import { notice } from "./output.ts";
import type { RecordedRun } from "./record-run.ts";

/** A command's line that is a JSON object. */
type JsonLine = Readonly<Record<string, unknown>>;

/** Signals of one command. */
export class SignalLines {
  readonly #run: Pick<RecordedRun, "sender" | "feed">;
  readonly #handlesWhenWritten: boolean;
  #lastWritten = 0;

  /** @param handlesWhenWritten whether a signal counts as handled once the command could read it */
  constructor(run: Pick<RecordedRun, "sender" | "feed">, handlesWhenWritten: boolean) {
    this.#run = run;
    this.#handlesWhenWritten = handlesWhenWritten;
  }

  /** Writes signals until the run takes nothing more, or the command reads nothing more. Never rejects. */
  async write(input: Writable): Promise<void> {
    const { sender } = this.#run;
    try {
      for await (const signal of sender.signals()) {
        // Before it is written: the answer may come before the write has ended.
        this.#lastWritten = signal.signalSeq;
        await written(input, `${JSON.stringify(lineOf(signal))}\n`);
        if (this.#handlesWhenWritten) sender.handle(signal.signalSeq);
      }
    } catch (error) {
      const isClosed = input.destroyed || (error as NodeJS.ErrnoException).code === "EPIPE";
      const why = isClosed ? "it has closed its standard input" : explain(error);
      notice(`the command gets no more signals: ${why}; they stay unhandled`);
    }
  }

  /** The last signal that a line of the command answers; 0: none. */
  readonly answers = (line: Uint8Array): number => {
    const signalSeq = objectOf(line)?.["signal_seq"];
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
  };

  /** Lets the run wait where a line of the command says so. */
  readonly onTaken = (line: Uint8Array): void => {
    const wait = objectOf(line)?.["wait"];
    if (wait === undefined) return;
    const wanted = waitOf(wait, line);
    if (wanted === undefined) {
      notice(
        'a line has a wait that is none, such as {"code": "approval", "deadline": "2027-01-01T00:00:00Z"}: ignored',
      );
      return;
    }
    void this.#wait(wanted);
  };

  async #wait(wait: WaitInit): Promise<void> {
    const { feed, sender } = this.#run;
    try {
      // The line that says so comes before.
      await feed.drained();
      await sender.wait(wait);
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

function objectOf(line: Uint8Array): JsonLine | undefined {
  // "{"
  if (line[0] !== 0x7b) return undefined;
  try {
    return JSON.parse(Buffer.from(line).toString()) as JsonLine;
  } catch {
    return undefined;
  }
}

function waitOf(wait: unknown, line: Uint8Array): WaitInit | undefined {
  if (typeof wait !== "object" || wait === null) return undefined;
  const { code, deadline } = wait as JsonLine;
  if (typeof code !== "string") return undefined;
  const until = typeof deadline === "string" ? new Date(deadline) : undefined;
  if (until !== undefined && Number.isNaN(until.getTime())) return undefined;
  const question = eventOfLine(line, {});
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
