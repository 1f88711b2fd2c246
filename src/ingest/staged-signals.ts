import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import { SignalSchema } from "../../gen/runlog/v1/record_pb.js";
import type { SignalRow } from "../journal/signals.ts";
import { decideSignal } from "./decide.ts";
import type { Outcome, SignalOperation } from "./operation.ts";
import type { RecordBuilder } from "./record-builder.ts";
import { type StagedRun, specOfRun, standing } from "./staged-run.ts";

/**
 * Signals while a group of operations is decided: those that the journal has
 * under the ids that are asked for, and those that the group adds.
 */
export class StagedSignals {
  /** The signals that are to be made findable. */
  readonly added: SignalRow[] = [];
  /** Bytes of their events. */
  eventBytes = 0;
  readonly #known = new Map<string, SignalRow>();
  readonly #builder: RecordBuilder;
  readonly #maxPending: number;

  /** @param maxPending signals of one run that may await handling */
  constructor(durable: readonly SignalRow[], builder: RecordBuilder, maxPending: number) {
    for (const row of durable) this.#note(row);
    this.#builder = builder;
    this.#maxPending = maxPending;
  }

  #note(row: SignalRow): void {
    this.#known.set(keyOf(row.run_key, row.signal_id), row);
  }

  /** Decides a signal, and adds it where it is new. */
  signal(operation: SignalOperation, staged: StagedRun | undefined): Outcome {
    const { runId, signalId, event, digest, sender } = operation;
    if (staged === undefined) return { t: "refused", refusal: { reason: "run_not_found", runId } };
    const { row } = staged;
    const before = this.#known.get(keyOf(row.run_key, signalId));
    if (before !== undefined) {
      return Buffer.compare(before.digest, digest) === 0
        ? signalled(before, staged)
        : { t: "refused", refusal: { reason: "signal_conflict", signalId } };
    }
    const { refusesSignals } = specOfRun(staged);
    const decision = decideSignal(standing(staged), refusesSignals, this.#maxPending);
    if (decision.t === "refused") return decision;
    const signalSeq = row.last_signal_seq + 1;
    const signal = create(SignalSchema, {
      signalId,
      signalSeq: BigInt(signalSeq),
      event: fromBinary(EventSchema, event.bytes),
      sender,
    });
    const seq = this.#builder.addSignal(staged, event.type, toBinary(SignalSchema, signal));
    row.last_signal_seq = signalSeq;
    row.event_bytes += event.bytes.length;
    this.eventBytes += event.bytes.length;
    staged.changed = true;
    const added: SignalRow = {
      namespace_id: row.namespace_id,
      run_key: row.run_key,
      signal_id: signalId,
      signal_seq: signalSeq,
      seq,
      digest,
    };
    this.added.push(added);
    this.#note(added);
    return signalled(added, staged);
  }
}

function keyOf(runKey: number, signalId: string): string {
  return `${runKey} ${signalId}`;
}

function signalled({ signal_seq: signalSeq, seq }: SignalRow, { row }: StagedRun): Outcome {
  return { t: "signalled", signalSeq, seq, lastSignalSeq: row.last_signal_seq };
}
