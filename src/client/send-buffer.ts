import { ForeignEventsError, JournalWentBackError } from "./errors.ts";
import { appendFramingBytes, eventFramingBytes } from "./limits.ts";

/** Frames on their way while which a frame that is not full waits. */
const maxSmallFrames = 2;

/** Bounds of one frame, from this side's limits and the server's. */
export interface FrameLimits {
  readonly maxEvents: number;
  readonly maxBytes: number;
  readonly maxAppendBytes: number;
  readonly maxUnackedEvents: number;
}

/** Consecutive events, ready to be sent. */
export interface Frame {
  readonly firstRunSeq: number;
  /** Encoded. */
  readonly events: readonly Uint8Array[];
  /** Their sizes together. */
  readonly bytes: number;
  /** How many of them had been on the wire before. */
  readonly resent: number;
  /** The run's signals up to this one are answered by the last of them; 0: it answers none. */
  readonly handledSignalSeq: number;
}

/** A place behind the events that were taken so far; it stays there where some of them are dropped. */
export interface Mark {
  /** Of the last of them. */
  readonly position: number;
}

/**
 * The events of one run between the agent and the server's acknowledgement.
 *
 * Invariants: positions 1, 2, 3, … are given in the order of emit, with no
 * gap; acked ≤ sent ≤ everSent ≤ last. run_seq = base + position, where base
 * is what the run held when this sender first opened it; before that nothing
 * has a run_seq. An event that has been on the wire is never taken out before
 * it is known to be durable, nor changed.
 *
 * Plain data and synchronous decisions only: no clock, no transport.
 */
export class SendBuffer {
  readonly #maxEvents: number;
  readonly #maxBytes: number;
  /** Entries of positions #acked + 1 … #last, from index #head on. */
  #entries: (Uint8Array | undefined)[] = [];
  #head = 0;
  #bytes = 0;
  #base: number | undefined;
  #acked = 0;
  #sent = 0;
  #everSent = 0;
  #last = 0;
  /** The last positions of the frames that are on their way. */
  #frames: number[] = [];
  /** Of events that answer signals, the last one of these. */
  readonly #handled = new WeakMap<Uint8Array, number>();
  #hasHandled = false;
  /** Places behind events that may be dropped yet, in their order. */
  #marks: { position: number }[] = [];

  constructor(maxEvents: number, maxBytes: number) {
    this.#maxEvents = maxEvents;
    this.#maxBytes = maxBytes;
  }

  /** Whether push may be called: there is room for one more event. */
  get hasRoom(): boolean {
    return this.#last - this.#acked < this.#maxEvents && this.#bytes < this.#maxBytes;
  }

  /** Events that are not known to be durable. */
  get unacked(): number {
    return this.#last - this.#acked;
  }

  /** Events on the wire of the present call that await their acknowledgement. */
  get inFlight(): number {
    return this.#sent - this.#acked;
  }

  /** Events that this sender knows to be durable. */
  get durable(): number {
    return this.#acked;
  }

  /** run_seq of the last event that is on the wire or durable. Only after the first opening. */
  get sentRunSeq(): number {
    return this.#baseRunSeq() + this.#sent;
  }

  /** The place behind the last event, sent or not. */
  mark(): Mark {
    const newest = this.#marks.at(-1);
    if (newest?.position === this.#last) return newest;
    const mark = { position: this.#last };
    if (this.unacked > 0) this.#marks.push(mark);
    return mark;
  }

  /** Whether the events before a place are on the wire. */
  isSent({ position }: Mark): boolean {
    return this.#sent >= position;
  }

  /** Whether the events before a place are durable. */
  isDurable({ position }: Mark): boolean {
    return this.#acked >= position;
  }

  /**
   * Takes an encoded event. The caller has looked at hasRoom.
   *
   * @param handledSignalSeq the last of the run's signals that it answers; 0: none
   */
  push(event: Uint8Array, handledSignalSeq = 0): void {
    this.#entries.push(event);
    if (handledSignalSeq > 0) {
      this.#hasHandled = true;
      this.#handled.set(event, handledSignalSeq);
    }
    this.#bytes += event.length;
    this.#last++;
  }

  /**
   * The run was opened and holds events up to `lastRunSeq`.
   *
   * The first time this fixes the base. Later the durable prefix leaves the
   * buffer and the rest is sent again, if `ours`: that is, if no other
   * producer can have opened the run in between. Otherwise what the server
   * holds may be another's, so everything unacknowledged is sent again, and
   * the server compares it with what it has (CONFLICT).
   *
   * Throws JournalWentBackError and ForeignEventsError.
   */
  opened(lastRunSeq: number, ours: boolean): void {
    if (this.#base === undefined) {
      this.#base = lastRunSeq;
      return;
    }
    const position = lastRunSeq - this.#base;
    if (position < this.#acked) {
      throw new JournalWentBackError(this.#base + this.#acked, lastRunSeq);
    }
    if (position > this.#everSent) {
      throw new ForeignEventsError(this.#base + this.#everSent, lastRunSeq);
    }
    if (ours) {
      this.#free(position);
    }
    this.#sent = this.#acked;
    this.#frames = [];
  }

  /**
   * Takes out events over the server's limit that have never been sent: it has
   * no run_seq yet, so those after it close the gap.
   */
  dropUnsentOver(maxEventBytes: number): readonly Uint8Array[] {
    const firstUnsent = this.#head + (this.#everSent - this.#acked);
    const kept: Uint8Array[] = [];
    const dropped: Uint8Array[] = [];
    const droppedPositions: number[] = [];
    let position = this.#everSent;
    for (const entry of this.#entries.slice(firstUnsent)) {
      if (entry === undefined) {
        continue;
      }
      position++;
      if (entry.length > maxEventBytes) {
        dropped.push(entry);
        droppedPositions.push(position);
        this.#bytes -= entry.length;
        this.#last--;
      } else {
        kept.push(entry);
      }
    }
    if (dropped.length > 0) {
      this.#entries.length = firstUnsent;
      this.#entries = this.#entries.concat(kept);
      this.#moveMarks(droppedPositions);
    }
    return dropped;
  }

  /** Moves the places behind events that are dropped, of which these were the positions. */
  #moveMarks(positions: readonly number[]): void {
    let passed = 0;
    for (const mark of this.#marks) {
      while (passed < positions.length && positions[passed]! <= mark.position) passed++;
      mark.position -= passed;
    }
  }

  /**
   * Takes the next events to send, or nothing where none wait, too many are in
   * flight, or they are few: these wait for others while one frame is being
   * committed and another one is on its way, as in Nagle's algorithm
   * (https://www.rfc-editor.org/rfc/rfc896).
   *
   * @param upTo the place behind the last event that may be sent
   */
  nextFrame(limits: FrameLimits, upTo?: Mark): Frame | undefined {
    const isFull = this.#last - this.#sent >= limits.maxEvents || this.#bytes >= limits.maxBytes;
    if (this.#frames.length >= maxSmallFrames && !isFull) return undefined;
    const room = Math.min(
      limits.maxEvents,
      limits.maxUnackedEvents - this.inFlight,
      (upTo?.position ?? this.#last) - this.#sent,
    );
    const events: Uint8Array[] = [];
    let bytes = 0;
    let appendBytes = appendFramingBytes;
    let handledSignalSeq = 0;
    for (let i = this.#head + this.inFlight; events.length < room; i++) {
      const entry = this.#entries[i];
      if (entry === undefined) {
        break;
      }
      appendBytes += entry.length + eventFramingBytes;
      // A single event goes out whatever its size: emit has checked it.
      if (
        events.length > 0 &&
        (bytes + entry.length > limits.maxBytes || appendBytes > limits.maxAppendBytes)
      ) {
        break;
      }
      events.push(entry);
      bytes += entry.length;
      // What an Append handles, its last event answers.
      handledSignalSeq = this.#hasHandled ? (this.#handled.get(entry) ?? 0) : 0;
      if (handledSignalSeq > 0) break;
    }
    if (events.length === 0) {
      return undefined;
    }
    const first = this.#sent + 1;
    this.#sent += events.length;
    this.#frames.push(this.#sent);
    const resent = Math.max(0, Math.min(this.#sent, this.#everSent) - first + 1);
    this.#everSent = Math.max(this.#everSent, this.#sent);
    return { firstRunSeq: this.#baseRunSeq() + first, events, bytes, resent, handledSignalSeq };
  }

  /**
   * Everything up to `runSeq` is durable. Returns how many events that freed.
   * An acknowledgement may run ahead of what this call has sent again; those
   * events stay until the server has compared them.
   * Throws ForeignEventsError for an event that was never sent.
   */
  ack(runSeq: number): number {
    const position = runSeq - this.#baseRunSeq();
    if (position > this.#everSent) {
      throw new ForeignEventsError(this.#baseRunSeq() + this.#everSent, runSeq);
    }
    while (this.#frames.length > 0 && this.#frames[0]! <= position) this.#frames.shift();
    const before = this.#acked;
    this.#free(Math.min(position, this.#sent));
    return this.#acked - before;
  }

  #free(position: number): void {
    while (this.#acked < position) {
      this.#bytes -= this.#entries[this.#head]?.length ?? 0;
      this.#entries[this.#head] = undefined;
      this.#head++;
      this.#acked++;
    }
    const passed = this.#marks.findIndex((mark) => mark.position > this.#acked);
    this.#marks.splice(0, passed === -1 ? this.#marks.length : passed);
    // Compacting at half keeps the cost per event constant.
    if (this.#head > 1024 && this.#head * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#head);
      this.#head = 0;
    }
  }

  #baseRunSeq(): number {
    if (this.#base === undefined) {
      throw new Error("the run has not been opened yet");
    }
    return this.#base;
  }
}
