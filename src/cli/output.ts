/**
 * Standard output and standard error of the commands.
 *
 * Invariant: a reader that goes away (EPIPE) ends the output, never with a
 * stack trace; a slow reader slows the command down and fills no memory.
 */
import type { Writable } from "node:stream";

/** The reader of standard output has gone. */
export class OutputClosedError extends Error {
  constructor() {
    super("standard output was closed");
    this.name = "OutputClosedError";
  }
}

/** Signals that ask a command to end. */
export const endingSignals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const;

/** Says something to the person at the terminal, on standard error. */
export function notice(text: string): void {
  process.stderr.write(`runlog: ${text}\n`);
}

/** A stream that is written with backpressure. */
export class Output {
  readonly #stream: Writable;
  readonly #closed = new AbortController();

  constructor(stream: Writable) {
    this.#stream = stream;
    // Stays for the process's life: a late EPIPE must not become an uncaught error.
    stream.on("error", () => this.#closed.abort(new OutputClosedError()));
  }

  /** Aborts when the reader has gone. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  /** Writes and waits until more may come. Throws OutputClosedError. */
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

  /** Waits until everything written has left the process, or the reader has gone. */
  async flush(): Promise<void> {
    if (!this.#closed.signal.aborted) {
      await new Promise<void>((resolve) => this.#stream.write("", () => resolve()));
    }
  }
}

/** Standard output; standard error for what exec passes on. */
export const stdout = new Output(process.stdout);
/** See stdout. */
export const stderr = new Output(process.stderr);
