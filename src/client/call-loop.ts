import type { Transport } from "@connectrpc/connect";
import { v4 as uuidv4 } from "uuid";
import { delayMs, sleep } from "./backoff.ts";
import { isAnswered, nodesAfter, RunlogError, retryAfterMsOf, toFinalError } from "./errors.ts";
import { type CallEnd, IngestCall, type IngestCallOptions, type Opened } from "./ingest-call.ts";
import { nodeCountOf } from "./ingest-transport.ts";
import { Retries } from "./retries.ts";
import type { SenderState } from "./sender-types.ts";

/** What the calls of a run are made with, and what its sender learns of them. */
export interface CallLoopOptions
  extends Omit<IngestCallOptions, "producerId" | "attempt" | "onOpened" | "onResent"> {
  /** Jitter of the back-off, in [0, 1). */
  readonly random: () => number;
  /** Ends the call that is under way, and the wait for the next one. */
  readonly signal: AbortSignal;
  /** Whether nothing is left to be sent, and the run is to be left. */
  readonly isDone: () => boolean;
  /** Whether the sender is over. */
  readonly isOver: () => boolean;
  /** Whether the run waits for input, and nothing is there to end that. */
  readonly isWaiting: () => boolean;
  readonly onState: (state: SenderState) => void;
  /** A server is there, whatever it says. */
  readonly onContact: () => void;
  /** The run is open, and the buffer has its base. */
  readonly onOpened: (opened: Opened) => void;
}

/**
 * The Ingest calls of one run, one after the other, until its sender is over.
 *
 * Invariant: a call that broke is followed by another one after a back-off, and one that
 * cannot succeed by none; the sender learns which.
 */
export class CallLoop {
  readonly #transport: Transport;
  readonly #options: CallLoopOptions;
  /** With the number of the call it tells the server which of our openings is the newest. */
  readonly #producerId = uuidv4();
  readonly #retries = new Retries();
  #calls = 0;
  #call: IngestCall | undefined;
  #epoch: bigint | undefined;
  #lastError: Error | undefined;
  #resent = 0;
  #reconnects = 0;

  constructor(transport: Transport, options: CallLoopOptions) {
    this.#transport = transport;
    this.#options = options;
  }

  /** Events that were sent once more. */
  get resent(): number {
    return this.#resent;
  }

  /** Openings after the first one. */
  get reconnects(): number {
    return this.#reconnects;
  }

  /** Why the last call that broke did. */
  get lastError(): Error | undefined {
    return this.#lastError;
  }

  /** There is something new to send, or a new goal. */
  wake(): void {
    this.#call?.wake();
  }

  /** Makes calls until the sender is over. */
  async run(): Promise<void> {
    const { isOver, isDone, isWaiting, onState, signal } = this.#options;
    for (let failures = 0; !isOver(); ) {
      onState({ t: "connecting", attempt: failures });
      const end = await this.#callOnce();
      if (isOver()) return;
      if (end.t === "refused" && this.#retries.isFinal(end.error)) {
        onState({ t: "failed", error: toFinalError(end.error) });
        return;
      }
      // Opened again, it would be RUNNING, as if its deadline had not passed.
      if (end.t === "broken" && isLost(end.error) && isWaiting()) {
        onState({ t: "failed", error: toFinalError(end.error) });
        return;
      }
      if (end.t === "ended" && isDone()) {
        onState({ t: "closed", unacked: 0 });
        return;
      }
      if (end.t === "broken" && this.#retries.isEndOfToken(end.error)) {
        this.#contacted();
        if (end.progressed) failures = 0;
        continue;
      }
      failures = end.t !== "refused" && end.progressed ? 1 : failures + 1;
      const waitMs = this.#waitAfter(end, failures);
      await sleep(waitMs, signal);
    }
  }

  /** Tells of a call that broke; the milliseconds until the next one. */
  #waitAfter(end: CallEnd, failures: number): number {
    const { limits, random, onState } = this.#options;
    const error = end.t === "ended" ? new Error("the server ended the call") : toError(end.error);
    if (isAnswered(error)) this.#contacted();
    const nodes = nodesAfter(error, nodeCountOf(this.#transport));
    const waitMs = delayMs(failures, retryAfterMsOf(error), limits.backoff, random, nodes);
    this.#lastError = error;
    onState({ t: "waiting", attempt: failures, delayMs: waitMs, error });
    return waitMs;
  }

  async #callOnce(): Promise<CallEnd> {
    const call = new IngestCall(this.#transport, {
      ...this.#options,
      producerId: this.#producerId,
      attempt: ++this.#calls,
      onOpened: (opened) => this.#onOpened(opened),
      onResent: (count) => {
        this.#resent += count;
      },
    });
    this.#call = call;
    try {
      return await call.run(this.#options.signal);
    } finally {
      this.#call = undefined;
    }
  }

  #onOpened(opened: Opened): void {
    const { buffer, onOpened, onState } = this.#options;
    const { epoch, lastRunSeq } = opened;
    this.#contacted();
    // Epochs grow by one with every opening: the next one after ours means
    // that nobody else had the run in between.
    const ours = this.#epoch !== undefined && epoch === this.#epoch + 1n;
    buffer.opened(lastRunSeq, ours);
    const reopened = this.#epoch !== undefined;
    this.#epoch = epoch;
    if (reopened) this.#reconnects++;
    onOpened(opened);
    onState({ t: "open", epoch, lastRunSeq, reopened });
  }

  #contacted(): void {
    this.#retries.answered();
    this.#options.onContact();
  }
}

/** Whether the server has given the run up. */
function isLost(error: unknown): boolean {
  return error instanceof RunlogError && error.reason === "RUN_NOT_OPEN";
}

/** What was thrown, as an Error. */
export function toError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
