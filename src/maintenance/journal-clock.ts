/** Clocks, all in milliseconds. */
export interface Clocks {
  /** Since 1970: the one that may be set. */
  readonly wall: () => number;
  /** Goes on while the machine runs; has fractions of a millisecond. */
  readonly steady: () => number;
  /** Goes on while the machine sleeps, too. */
  readonly uptime: () => number;
}

/** What the time is made of. */
export interface JournalClockOptions extends Clocks {
  /** Milliseconds for which a jump has to stay before it is believed. */
  readonly settleMs: number;
  /** Milliseconds for which retention pauses after a jump. */
  readonly pauseMs: number;
  /** Told of jumps. */
  readonly onJump: (jump: Jump) => void;
}

/** A jump of the clock, and what became of it. */
export interface Jump {
  readonly t: "seen" | "undone" | "believed";
  /** Forward, or backward where it is below 0. */
  readonly ms: number;
}

/** Milliseconds by which clocks may differ: a slow answer of the database, a leap second, a slewed clock. */
export const clockToleranceMs = 2_000;
/** Milliseconds after which the clocks are compared anew: until then they drift apart less than that. */
const rebaseMs = 1_000;

/** Where all clocks stood at a moment at which they were believed. */
interface Base {
  readonly wallMs: number;
  readonly steadyMs: number;
  readonly uptimeMs: number;
}

/**
 * The time of a journal: what records are stamped with, and what retention goes by.
 *
 * Somebody may set a clock. So it is believed while it agrees with one that only
 * goes on. Where it jumps, the time from before goes on by the steady clock; a
 * jump that stays for long enough is taken over then, one that is undone has done
 * nothing. Retention deletes for good, so it pauses for longer.
 */
export class JournalClock {
  readonly #options: JournalClockOptions;
  #base: Base;
  /** A jump that is not believed yet; when it was seen, by the steady clock. */
  #jump: { readonly ms: number; readonly seenMs: number } | undefined;
  /** The last moment, by the steady clock, at which a jump was seen or ended. */
  #disturbedMs = Number.NEGATIVE_INFINITY;

  constructor(options: JournalClockOptions) {
    this.#options = options;
    this.#base = this.#read();
  }

  /** Milliseconds since 1970, whole: they are stored, and written as a Timestamp. */
  readonly now = (): number => {
    const { wall, steady } = this.#options;
    const wallMs = wall();
    const steadyMs = steady();
    const expectedMs = Math.floor(this.#base.wallMs + (steadyMs - this.#base.steadyMs));
    const jumpMs = wallMs - expectedMs;
    if (Math.abs(jumpMs) > clockToleranceMs) return this.#examine(jumpMs, expectedMs, steadyMs);
    if (this.#jump !== undefined) this.#end("undone", steadyMs);
    if (steadyMs - this.#base.steadyMs >= rebaseMs) this.#base = this.#read();
    return wallMs;
  };

  /** The same; undefined while nothing must be deleted by it. */
  steadyNow(): number | undefined {
    const nowMs = this.now();
    const { steady, pauseMs } = this.#options;
    const isDisturbed = this.#jump !== undefined || steady() - this.#disturbedMs < pauseMs;
    return isDisturbed ? undefined : nowMs;
  }

  #examine(jumpMs: number, expectedMs: number, steadyMs: number): number {
    const { uptime, settleMs, onJump } = this.#options;
    const sleptMs = uptime() - this.#base.uptimeMs - (steadyMs - this.#base.steadyMs);
    if (Math.abs(jumpMs - sleptMs) <= clockToleranceMs) {
      // The machine slept; the clock that may be set is the one that is right.
      this.#base = this.#read();
      this.#jump = undefined;
      return this.#base.wallMs;
    }
    if (this.#jump === undefined || Math.abs(jumpMs - this.#jump.ms) > clockToleranceMs) {
      this.#jump = { ms: jumpMs, seenMs: steadyMs };
      this.#disturbedMs = steadyMs;
      onJump({ t: "seen", ms: jumpMs });
    }
    if (steadyMs - this.#jump.seenMs < settleMs) return expectedMs;
    this.#end("believed", steadyMs);
    this.#base = this.#read();
    return this.#base.wallMs;
  }

  #end(t: "undone" | "believed", steadyMs: number): void {
    const { ms } = this.#jump!;
    this.#jump = undefined;
    this.#disturbedMs = steadyMs;
    this.#options.onJump({ t, ms });
  }

  #read(): Base {
    const { wall, steady, uptime } = this.#options;
    return { wallMs: wall(), steadyMs: steady(), uptimeMs: uptime() };
  }
}
