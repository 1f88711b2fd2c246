/** Input to a run, from anybody. */
import { createClient, type Transport } from "@connectrpc/connect";
import { v7 as uuidv7 } from "uuid";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { type EventInit, eventOf } from "../wire/event.ts";
import { type BackoffOptions, defaultBackoff, delayMs, sleep } from "./backoff.ts";
import { isAnswered, retryAfterMsOf, toFinalError } from "./errors.ts";
import { nodeCountOf } from "./ingest-transport.ts";
import { defaultSignalTimeoutMs, signalAnswerTimeoutMs } from "./limits.ts";
import { Retries } from "./retries.ts";
import { toNumber } from "./uint64.ts";

/** A signal to a run. */
export interface SignalInit {
  /** Empty or unset: "default". */
  readonly namespace?: string;
  readonly runId: string;
  /**
   * However often a signal is sent under its id, the run gets it once. Empty or unset: a new
   * UUIDv7; give one of your own to send it again after this call has failed.
   */
  readonly signalId?: string;
  /** One without a time gets the present one. */
  readonly event: EventInit;
}

/** How to send a signal. */
export interface SignalRunOptions {
  /** Gives up; the signal may be durable all the same. */
  readonly signal?: AbortSignal;
  /** Milliseconds to go on trying for. Default: one minute. */
  readonly timeoutMs?: number;
  /** Waits between attempts. */
  readonly backoff?: BackoffOptions;
  /** Jitter of these waits, in [0, 1). Default: Math.random. */
  readonly random?: () => number;
}

/** A signal that is durable. */
export interface SentSignal {
  /** Place among the run's signals: 1, 2, 3, … */
  readonly signalSeq: number;
  readonly signalId: string;
  /** Its place in the journal. */
  readonly seq: number;
}

/**
 * Sends a signal to a run and resolves once it is durable. Tries again through outages, under
 * the same id, so that the run gets it once.
 *
 * @throws RunlogError where it was refused, or no server took it in time; the signal's reason
 */
export async function signalRun(
  transport: Transport,
  { namespace = "", runId, signalId = "", event }: SignalInit,
  options: SignalRunOptions = {},
): Promise<SentSignal> {
  const { signal = new AbortController().signal, timeoutMs = defaultSignalTimeoutMs } = options;
  const { backoff = defaultBackoff, random = Math.random } = options;
  const client = createClient(RunService, transport);
  // Not the server's choice: it would choose another one at each attempt.
  const id = signalId === "" ? uuidv7() : signalId;
  const request = { namespace, runId, signalId: id, event: eventOf(event, Date.now()) };
  const retries = new Retries();
  const deadlineMs = performance.now() + timeoutMs;
  for (let attempt = 1; ; attempt++) {
    signal.throwIfAborted();
    const leftMs = Math.max(1, Math.ceil(deadlineMs - performance.now()));
    try {
      const sent = await client.signalRun(request, {
        signal,
        timeoutMs: Math.min(leftMs, signalAnswerTimeoutMs),
      });
      const { signalSeq, seq } = sent;
      return {
        signalSeq: toNumber(signalSeq, "signal_seq"),
        signalId: sent.signalId,
        seq: toNumber(seq, "seq"),
      };
    } catch (error) {
      signal.throwIfAborted();
      if (retries.isFinal(error)) throw toFinalError(error);
      if (isAnswered(error)) retries.answered();
      const nodes = nodeCountOf(transport);
      const waitMs = delayMs(attempt, retryAfterMsOf(error), backoff, random, nodes);
      if (performance.now() + waitMs >= deadlineMs) throw toFinalError(error);
      await sleep(waitMs, signal);
    }
  }
}
