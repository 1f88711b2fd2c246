/**
 * Asks before something that cannot be undone.
 *
 * Invariant: nothing is done without the word "yes" from a person at a
 * terminal, or --yes.
 */
import { constants } from "node:os";
import { createInterface } from "node:readline/promises";
import type { Readable, Writable } from "node:stream";
import { CommandError, exitStatus } from "./failure.ts";

/** Where to ask. */
export interface Terminal {
  readonly input: Readable;
  readonly output: Writable;
  /** Whether a person is at both ends. */
  readonly isInteractive: boolean;
}

/** What to ask. */
export interface Question {
  /** --yes: it has been answered. */
  readonly yes: boolean;
  /** What would be done, to begin a sentence with: "deleting a tree". */
  readonly what: string;
  /** Lines that say what is at stake; looked up only for a terminal. */
  readonly details: () => Promise<string>;
}

/**
 * Returns once it has been confirmed.
 *
 * @throws CommandError where nobody can be asked (wrong usage), where the answer
 * is not "yes", and where the person leaves
 */
export async function confirm(question: Question, terminal = ownTerminal()): Promise<void> {
  if (question.yes) return;
  if (!terminal.isInteractive) {
    throw new CommandError(
      `${question.what} cannot be undone, and there is no terminal to ask on: use --yes`,
      exitStatus.usage,
    );
  }
  terminal.output.write(`${await question.details()}\n`);
  if ((await ask("Type yes to continue: ", terminal)).trim() !== "yes") {
    throw new CommandError("not confirmed: nothing was done");
  }
}

async function ask(text: string, { input, output }: Terminal): Promise<string> {
  const lines = createInterface({ input, output, terminal: true });
  const left = new AbortController();
  const leave = (status: number) => () =>
    left.abort(new CommandError("not confirmed: nothing was done", status));
  lines.once("SIGINT", leave(exitStatus.signalBase + constants.signals.SIGINT));
  // Otherwise the question would wait for ever at the end of input.
  lines.once("close", leave(exitStatus.failed));
  try {
    return await lines.question(text, { signal: left.signal });
  } catch (error) {
    left.signal.throwIfAborted();
    throw error;
  } finally {
    lines.close();
  }
}

function ownTerminal(): Terminal {
  return {
    input: process.stdin,
    // Standard output is for results.
    output: process.stderr,
    isInteractive: process.stdin.isTTY === true && process.stderr.isTTY === true,
  };
}
