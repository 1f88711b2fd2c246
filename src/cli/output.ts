/**
 * Standard output and standard error of the commands.
 *
 * Invariant: a reader that leaves (EPIPE) ends the output without a word, whatever else
 * fails (a full disk) with an error, and neither with a stack trace; a slow reader slows
 * the command down and fills no memory.
 */
import type { Writable } from "node:stream";
import { printable } from "./text.ts";

/** The reader of an output has left: nobody needs to hear of it. */
export class OutputClosedError extends Error {
  constructor() {
    super("the reader of the output has closed it");
    this.name = "OutputClosedError";
  }
}

/** An output cannot be written to, because a disk is full, say. */
export class OutputFailedError extends Error {
  constructor(cause: Error) {
    super(`cannot write the output: ${cause.message}`, { cause });
    this.name = "OutputFailedError";
  }
}

/** Signals that ask a command to end. */
export const endingSignals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const;

/** Says something to the person at the terminal, on standard error; others' words in it cannot steer that. */
export function notice(text: string): void {
  process.stderr.write(`runlog: ${text.split("\n").map(printable).join("\n")}\n`);
}

/** A stream that is written with backpressure. */
export class Output {
  readonly #stream: Writable;
  readonly #closed = new AbortController();

  constructor(stream: Writable) {
    this.#stream = stream;
    // Stays for the process's life: a late EPIPE must not become an uncaught error.
    stream.on("error", (error: NodeJS.ErrnoException) => {
      this.#closed.abort(
        error.code === "EPIPE" ? new OutputClosedError() : new OutputFailedError(error),
      );
    });
  }

  /** Aborts with OutputClosedError when the reader has left, with OutputFailedError when writing fails. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  /** The reader is known to have left, before a write has failed. */
  readerLeft(): void {
    this.#closed.abort(new OutputClosedError());
  }

  /** Writes and waits until more may come. Throws the reason of `closed`. */
  async write(data: string | Uint8Array): Promise<void> {
    const { signal } = this.#closed;
    signal.throwIfAborted();
    if (this.#stream.write(data)) {
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const onDrain = () => {
        signal.removeEventListener("abort", onClosed);
        resolve();
      };
      const onClosed = () => {
        this.#stream.off("drain", onDrain);
        reject(signal.reason);
      };
      this.#stream.once("drain", onDrain);
      signal.addEventListener("abort", onClosed, { once: true });
    });
  }

  /** Waits until all output has left the process, or its reader has closed. */
  async flush(): Promise<void> {
    if (!this.#closed.signal.aborted) {
      await new Promise<void>((resolve) => this.#stream.write("", () => resolve()));
    }
  }
}

/** Standard output. */
export const stdout = new Output(process.stdout);
/** Standard error, for what exec passes on. */
export const stderr = new Output(process.stderr);
