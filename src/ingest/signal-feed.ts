import type { Db } from "../journal/schema.ts";
import { readSignals, type SignalCursor, type StoredSignal } from "../journal/signals.ts";
import { signalIn } from "../wire/event-batch.ts";
import type { IngestFrame } from "./frames.ts";
import type { Producer, SignalStanding } from "./operation.ts";

/** Signals of one page, and their bytes. */
const pageSignals = 64;
const pageBytes = 256 * 1024;

/** What a feed works with. */
export interface SignalFeedOptions {
  readonly db: Db;
  /** Whether there is room for a page among the answers. */
  readonly hasRoom: () => boolean;
  readonly push: (frame: IngestFrame) => void;
  /** Called when the signals of a run cannot be read. */
  readonly onFailure: (error: unknown, producer: Producer) => void;
}

/** A run whose signals are sent. */
interface Fed {
  readonly producer: Producer;
  cursor: SignalCursor;
  /** The run's last known signal. */
  lastSignalSeq: number;
}

/**
 * Brings signals to the producers of one Ingest stream: from the journal, each
 * run's by a cursor, a page at a time.
 *
 * Invariant: a page is read only while there is room for it among the answers, so
 * a producer that reads slowly costs a page, however many signals it has.
 */
export class SignalFeed {
  readonly #options: SignalFeedOptions;
  /** By the ids of the runs. */
  readonly #fed = new Map<string, Fed>();
  /** Those of which signals are known that were not sent, in turn. */
  readonly #due = new Set<Fed>();
  #pumping: Promise<void> | undefined;
  #isClosed = false;

  constructor(options: SignalFeedOptions) {
    this.#options = options;
  }

  /** Sends the signals of a run that a producer has opened, those that are not handled. */
  add(producer: Producer, standing: SignalStanding): void {
    this.remove(producer.runId);
    const { namespaceId, runKey, handledSignalSeq, lastSignalSeq } = standing;
    const cursor = { namespaceId, runKey, afterSignalSeq: handledSignalSeq };
    this.#fed.set(producer.runId, { producer, cursor, lastSignalSeq: handledSignalSeq });
    this.note(producer, lastSignalSeq);
  }

  /**
   * Notes that a producer's run has new signals, or may have.
   *
   * @param lastSignalSeq the run's last signal, at least; undefined where it is not known
   */
  note(producer: Producer, lastSignalSeq: number | undefined): void {
    const fed = this.#fed.get(producer.runId);
    if (fed?.producer !== producer) return;
    if (lastSignalSeq !== undefined) {
      if (lastSignalSeq <= fed.lastSignalSeq) return;
      fed.lastSignalSeq = lastSignalSeq;
    }
    this.#due.add(fed);
    this.pump();
  }

  /** Sends no more signals of a run. */
  remove(runId: string): void {
    const fed = this.#fed.get(runId);
    if (fed === undefined) return;
    this.#fed.delete(runId);
    this.#due.delete(fed);
  }

  /** Goes on: there may be room again. */
  pump(): void {
    if (this.#pumping !== undefined || !this.#mayRead()) return;
    this.#pumping = this.#pump().finally(() => {
      this.#pumping = undefined;
      // What came, or was taken, between the last look and now.
      this.pump();
    });
  }

  /** Sends nothing more; resolves when nothing is read any more. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#pumping;
  }

  #mayRead(): boolean {
    return !this.#isClosed && this.#due.size > 0 && this.#options.hasRoom();
  }

  async #pump(): Promise<void> {
    while (this.#mayRead()) {
      const [fed] = this.#due;
      this.#due.delete(fed!);
      await this.#read(fed!);
    }
  }

  async #read(fed: Fed): Promise<void> {
    const { db, push, onFailure } = this.#options;
    const { producer } = fed;
    const { runId } = producer;
    let signals: readonly StoredSignal[];
    try {
      signals = await readSignals(db, fed.cursor, pageSignals, pageBytes);
    } catch (error) {
      this.#due.delete(fed);
      if (!this.#isClosed && this.#fed.get(runId) === fed) onFailure(error, producer);
      return;
    }
    // Left, refused or opened anew meanwhile.
    if (this.#isClosed || this.#fed.get(runId) !== fed || producer.rejected) return;
    for (const { seq, data } of signals) push({ t: "signal", runId, seq, signal: signalIn(data) });
    const last = signals.at(-1);
    if (last === undefined) return;
    fed.cursor = { ...fed.cursor, afterSignalSeq: last.signalSeq };
    fed.lastSignalSeq = Math.max(fed.lastSignalSeq, last.signalSeq);
    // Behind the others: one with many signals does not keep them waiting.
    if (last.signalSeq < fed.lastSignalSeq) this.#due.add(fed);
  }
}
