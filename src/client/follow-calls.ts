/** Calling again and again, from where the reader stands, for as long as there is something to read. */
import type { Transport } from "@connectrpc/connect";
import { type BackoffOptions, defaultBackoff, delayMs, sleep } from "./backoff.ts";
import { nodesAfter, RunlogError, retryAfterMsOf, toFinalError } from "./errors.ts";
import { nodeCountOf } from "./ingest-transport.ts";
import { followAnswerTimeoutMs } from "./limits.ts";
import { orAbort } from "./or-abort.ts";
import { Retries } from "./retries.ts";
import { tokenFor } from "./with-token.ts";

/** Where a follower stands. */
export type FollowState =
  | { readonly t: "connecting"; readonly attempt: number }
  /** The subscription stands; the cursor belongs to this journal. */
  | { readonly t: "following"; readonly journalId: string; readonly resumed: boolean }
  /** The call ended; the next one resumes after `cursor`. */
  | {
      readonly t: "waiting";
      readonly attempt: number;
      readonly delayMs: number;
      readonly error: Error;
    };

/** How to follow. */
export interface FollowOptions {
  /** Ends the following: the iteration throws the signal's reason. */
  readonly signal?: AbortSignal;
  /** Told of every change. Must not throw. */
  readonly onState?: (state: FollowState) => void;
  readonly backoff?: BackoffOptions;
  /** Jitter of the waits between calls, in [0, 1). Default: Math.random. */
  readonly random?: () => number;
}

/** What a frame brings. */
export interface Taken<Item> {
  readonly item?: Item | undefined;
  /** Set where the frame says that the call's subscription stands. */
  readonly following?: Omit<Extract<FollowState, { t: "following" }>, "t"> | undefined;
  /** Whether the server asks to call again. */
  readonly goAway?: boolean;
}

/** Who reads the calls. */
export interface CallReader<Frame, Item> {
  /** Milliseconds without any frame after which a call is held to be dead. */
  readonly silentMs: number;
  /** Whether nothing is left to read, between two calls. */
  readonly isDone: boolean;
  /** Begins a call from where the reader stands. It may abort it with Reopen. */
  open(call: AbortController): AsyncIterable<Frame>;
  /** Moves with a frame. Throws RunlogError where a part of the call has to be tried again. */
  take(frame: Frame): Taken<Item>;
  /** Moves with a call's end, and says what that brings. */
  close(endedByServer: boolean): readonly Item[];
}

/** The reason of a call's abort where the next one is to begin at once. */
export class Reopen extends Error {
  constructor() {
    super("what is followed has changed: the call is opened again");
    this.name = "Reopen";
  }
}

/**
 * Yields what the reader makes of its calls, until it is done.
 *
 * @throws RunlogError where calling again cannot help; the reason of `options.signal`
 */
export async function* followCalls<Frame, Item>(
  transport: Transport,
  reader: CallReader<Frame, Item>,
  options: FollowOptions,
): AsyncGenerator<Item, void, undefined> {
  const { onState, backoff = defaultBackoff, random = Math.random } = options;
  const signal = options.signal ?? new AbortController().signal;
  const retries = new Retries();
  for (let failures = 0; ; ) {
    signal.throwIfAborted();
    onState?.({ t: "connecting", attempt: failures });
    const call = new AbortController();
    const onAbort = () => call.abort(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    let progressed = false;
    let goAway = false;
    let error: unknown;
    try {
      const { silentMs } = reader;
      await tokenFor(transport, call.signal);
      const iterator = reader.open(call)[Symbol.asyncIterator]();
      let answerMs = Math.min(silentMs, followAnswerTimeoutMs);
      while (!goAway) {
        const next = await orAbort(
          iterator.next(),
          call.signal,
          answerMs,
          "frame of the subscription",
        );
        if (next.done === true) break;
        answerMs = silentMs;
        retries.answered();
        const { item, following, goAway: isLast = false } = reader.take(next.value);
        goAway = isLast;
        if (following !== undefined) onState?.({ t: "following", ...following });
        if (item !== undefined) {
          progressed = true;
          yield item;
        }
      }
    } catch (thrown) {
      // Connect wraps the reason of an abort; our own says more.
      error = call.signal.aborted ? call.signal.reason : thrown;
    } finally {
      signal.removeEventListener("abort", onAbort);
      // The transport leaves a node that did not answer.
      call.abort(error);
    }
    signal.throwIfAborted();
    yield* reader.close(error === undefined && !goAway);
    if (reader.isDone) return;
    if (error instanceof Reopen || retries.isEndOfToken(error)) {
      if (progressed) failures = 0;
      continue;
    }
    if (error !== undefined && retries.isFinal(error)) throw toFinalError(error);
    // What others on the call received says nothing about the part that failed.
    failures = progressed && !(error instanceof RunlogError) ? 1 : failures + 1;
    const retryAfterMs = retryAfterMsOf(error);
    const nodes = nodesAfter(error, nodeCountOf(transport));
    const waitMs = delayMs(failures, retryAfterMs, backoff, random, nodes);
    const reason = error instanceof Error ? error : new Error("the server ended the call");
    onState?.({ t: "waiting", attempt: failures, delayMs: waitMs, error: reason });
    await sleep(waitMs, signal);
  }
}
