/** The signals of one run on their way from the server to the producer. */
import type { Event } from "../../gen/runlog/v1/event_pb.js";
import type { SignalReceived } from "../../gen/runlog/v1/ingest_pb.js";
import { Wakeup } from "../wakeup.ts";
import type { Mark } from "./send-buffer.ts";
import { toNumber } from "./uint64.ts";

/** Input to a run. */
export interface RunSignal {
  /** Place among the run's signals: 1, 2, 3, … */
  readonly signalSeq: number;
  readonly signalId: string;
  /** Its place in the journal. */
  readonly seq: number;
  readonly event: Event;
  /** Who sent it, where the server authenticates; else empty. */
  readonly sender: string;
}

/** Signals that the producer has handled without an event that answers them. */
interface ToHandle {
  /** Up to this one. */
  readonly signalSeq: number;
  /** Behind the events that the producer had emitted before. */
  readonly mark: Mark;
}

/**
 * Holds signals until the producer takes them.
 *
 * Invariant: the producer gets each signal once, in order, also where a server that the
 * run was opened at again sends those that are not handled yet once more. The server bounds how
 * many unhandled signals a run has, and so what this holds.
 */
export class SignalInbox {
  readonly #signals: RunSignal[] = [];
  readonly #wakeup = new Wakeup();
  #lastSignalSeq = 0;
  #toHandle: ToHandle = { signalSeq: 0, mark: { position: 0 } };
  #recorded = 0;
  #isOver = false;
  #isRead = false;

  /** The last signal that came. */
  get lastSignalSeq(): number {
    return this.#lastSignalSeq;
  }

  /** What the producer has handled, as `handle` noted it. */
  get toHandle(): ToHandle {
    return this.#toHandle;
  }

  /** Whether the server has recorded what `handle` noted. */
  get isRecorded(): boolean {
    return this.#recorded >= this.#toHandle.signalSeq;
  }

  /**
   * Notes that the producer has handled the signals up to this one.
   *
   * @param mark behind the events that it has emitted
   * @throws RangeError where it has not come yet
   */
  handle(signalSeq: number, mark: Mark): void {
    this.check(signalSeq);
    if (signalSeq > this.#toHandle.signalSeq) this.#toHandle = { signalSeq, mark };
  }

  /** The server has recorded the signals up to this one as handled. */
  recorded(handledSignalSeq: number): void {
    this.#recorded = Math.max(this.#recorded, handledSignalSeq);
  }

  /** @throws RangeError where this signal has not come */
  check(signalSeq: number): void {
    if (!Number.isSafeInteger(signalSeq) || signalSeq < 1 || signalSeq > this.#lastSignalSeq) {
      throw new RangeError(
        `signal ${signalSeq} has not come: the last one is ${this.#lastSignalSeq}`,
      );
    }
  }

  /** The run was opened with its signals up to this one handled: later ones come. */
  opened(handledSignalSeq: number): void {
    this.#lastSignalSeq = Math.max(this.#lastSignalSeq, handledSignalSeq);
    this.recorded(handledSignalSeq);
  }

  /** Takes what the server sent. */
  deliver({ seq, signal }: SignalReceived): void {
    if (signal?.event === undefined) return;
    const signalSeq = toNumber(signal.signalSeq, "signal_seq");
    if (signalSeq <= this.#lastSignalSeq) return;
    this.#lastSignalSeq = signalSeq;
    const { signalId, event, sender } = signal;
    this.#signals.push({ signalSeq, signalId, seq: toNumber(seq, "seq"), event, sender });
    this.#wakeup.wake();
  }

  /**
   * No more signals come.
   *
   * @param isFinished whether the run has ended; otherwise those that the producer has not
   *   taken are for the run's next producer
   */
  end(isFinished: boolean): void {
    this.#isOver = true;
    if (!isFinished) this.#signals.length = 0;
    this.#wakeup.wake();
  }

  /**
   * The signals, as they come, until the sender is over. For one reader at a time: the next one
   * goes on after the last signal that this one took. Stops once `abort` aborts.
   */
  async *read(abort?: AbortSignal): AsyncGenerator<RunSignal> {
    if (this.#isRead) throw new TypeError("signals() has a reader already");
    this.#isRead = true;
    try {
      while (abort?.aborted !== true) {
        const signal = this.#signals.shift();
        if (signal !== undefined) yield signal;
        else if (this.#isOver) return;
        else await this.#wakeup.wait(abort);
      }
    } finally {
      this.#isRead = false;
    }
  }
}
