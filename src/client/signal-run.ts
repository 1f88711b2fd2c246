/** Input to a run, from anybody. */
import { createClient, type Transport } from "@connectrpc/connect";
import { v7 as uuidv7 } from "uuid";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { type EventInit, eventOf } from "../wire/event.ts";
import { toNumber } from "./uint64.ts";
import { type UnaryOptions, untilAnswered } from "./unary.ts";

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

/** How to send a signal; with `signal`, it may be durable all the same. */
export type SignalRunOptions = UnaryOptions;

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
  const client = createClient(RunService, transport);
  // Not the server's choice: it would choose another one at each attempt.
  const id = signalId === "" ? uuidv7() : signalId;
  const request = { namespace, runId, signalId: id, event: eventOf(event, Date.now()) };
  const sent = await untilAnswered(transport, (call) => client.signalRun(request, call), options);
  return {
    signalSeq: toNumber(sent.signalSeq, "signal_seq"),
    signalId: sent.signalId,
    seq: toNumber(sent.seq, "seq"),
  };
}
