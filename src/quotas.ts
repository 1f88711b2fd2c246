/**
 * Quotas by identity: what the streams, subscriptions, runs and bytes of one identity may come
 * to at this node. Only new work is refused; bytes over their rate are read later.
 *
 * Invariant: whatever is counted is given back exactly once, however its owner ends. An identity
 * that uses nothing takes no memory for long.
 */
import { Rate } from "./rate.ts";
import { type Refusal, RefusedError } from "./refusal.ts";
import { startTimer } from "./timers.ts";

/** What one identity may use at one node; Infinity: as much as it wants. */
export interface QuotaLimits {
  /** Open streams: Ingest, Subscribe, SubscribeMany and Watch calls. */
  readonly streams: number;
  /** Subscriptions at once, over all calls. */
  readonly subscriptions: number;
  /** Runs that its Ingest streams hold at once. */
  readonly openRuns: number;
  /** Runs that it creates in a minute; as many at once where it has created none for that long. */
  readonly runsPerMinute: number;
  /** Namespaces that its runs create in an hour; as many at once where they have created none. */
  readonly namespacesPerHour: number;
  /** Bytes of events that are read from it in a second; as many at once after a second without. */
  readonly bytesPerSecond: number;
}

/** No quotas. */
export const noQuotas: QuotaLimits = {
  streams: Number.POSITIVE_INFINITY,
  subscriptions: Number.POSITIVE_INFINITY,
  openRuns: Number.POSITIVE_INFINITY,
  runsPerMinute: Number.POSITIVE_INFINITY,
  namespacesPerHour: Number.POSITIVE_INFINITY,
  bytesPerSecond: Number.POSITIVE_INFINITY,
};

/** Milliseconds after which something that was counted may have ended. */
const countRetryAfterMs = 1_000;
/** Milliseconds between looks at a rate that others wait for: its limit may be another one by then. */
const lookMs = 1_000;
/** Identities that are kept before those that use nothing are looked for. */
const minSweepCount = 1_024;

/** Time, and a timer; tests have one of their own. */
export interface QuotaClock {
  /** Milliseconds; never goes back. */
  now(): number;
  /** Calls back once, after so many milliseconds, unless what it returns is called before. */
  after(ms: number, callback: () => void): () => void;
}

const systemClock: QuotaClock = {
  now: () => performance.now(),
  after(ms, callback) {
    const timer = startTimer(callback, ms).unref();
    return () => clearTimeout(timer);
  },
};

/** All identities of a node. */
export class Quotas {
  /** What an identity may use of which nothing else is known. */
  defaults: QuotaLimits = noQuotas;
  readonly #clock: QuotaClock;
  readonly #usages = new Map<string, Usage>();
  #sweepAt = minSweepCount;

  /** @param clock default: that of the system */
  constructor(clock: QuotaClock = systemClock) {
    this.#clock = clock;
  }

  /** Identities that are kept. */
  get size(): number {
    return this.#usages.size;
  }

  /**
   * What an identity uses, and may from now on. Keep it no longer than something is counted
   * in it: what nothing is counted in is forgotten.
   *
   * @param key the identity
   * @param limits undefined: as they were
   */
  of(key: string, limits: QuotaLimits | undefined): Usage {
    const known = this.#usages.get(key);
    if (known !== undefined) {
      known.limits = limits ?? known.limits;
      return known;
    }
    if (this.#usages.size >= this.#sweepAt) this.sweep();
    const usage = new Usage(limits ?? this.defaults, this.#clock);
    this.#usages.set(key, usage);
    return usage;
  }

  /** An identity may use so much from now on, what it uses already included; see `of`. */
  limit(key: string, limits: QuotaLimits | undefined): void {
    if (this.#usages.has(key)) this.of(key, limits);
  }

  /** Forgets who uses nothing. */
  sweep(): void {
    for (const [key, usage] of this.#usages) if (usage.isIdle) this.#usages.delete(key);
    this.#sweepAt = Math.max(minSweepCount, 2 * this.#usages.size);
  }
}

/** Asked in the transaction that creates something; however often, it is counted once. */
export interface Creation {
  /** Why no run may be created now; undefined where one may. */
  run(): Refusal | undefined;
  /** Why no namespace may be created now; undefined where one may. */
  namespace(): Refusal | undefined;
}

/** What is counted at once. */
type Counted = "streams" | "subscriptions" | "openRuns";

const names: Readonly<Record<Counted, string>> = {
  streams: "streams of one identity at a node: end one",
  subscriptions: "subscriptions of one identity at a node: end some",
  openRuns: "open runs of one identity at a node: finish or release one",
};

/** What one identity uses. */
export class Usage {
  limits: QuotaLimits;
  readonly #clock: QuotaClock;
  readonly #used: Record<Counted, number> = { streams: 0, subscriptions: 0, openRuns: 0 };
  readonly #runs: Rate;
  readonly #namespaces: Rate;
  readonly #bytes: Rate;
  /** Of windows that wait for the rate. */
  #waitingBytes = 0;
  /** Those who wait for the rate, the one that has waited longest first. */
  readonly #listeners = new Set<() => void>();
  #stopTimer: (() => void) | undefined;

  constructor(limits: QuotaLimits, clock: QuotaClock) {
    this.limits = limits;
    this.#clock = clock;
    const now = () => clock.now();
    this.#runs = new Rate(60_000, now);
    this.#namespaces = new Rate(3_600_000, now);
    this.#bytes = new Rate(1_000, now);
  }

  /** Whether nothing is counted, and no rate remembers anything. */
  get isIdle(): boolean {
    const { streams, subscriptions, openRuns } = this.#used;
    const { runsPerMinute, namespacesPerHour, bytesPerSecond } = this.limits;
    return (
      streams + subscriptions + openRuns + this.#waitingBytes === 0 &&
      this.#runs.level(runsPerMinute) === 0 &&
      this.#namespaces.level(namespacesPerHour) === 0 &&
      this.#bytes.level(bytesPerSecond) === 0
    );
  }

  /** How many are counted. */
  count(what: Counted): number {
    return this.#used[what];
  }

  /**
   * Counts one more, until `give`.
   *
   * @throws RefusedError quota
   */
  take(what: Counted): void {
    this.check(what, 1);
    this.#used[what]++;
  }

  /** Counts one less, that was taken before. */
  give(what: Counted): void {
    this.#used[what]--;
  }

  /**
   * Makes sure that there is room for so many more.
   *
   * @throws RefusedError quota; without retryAfterMs where there can never be
   */
  check(what: Counted, more: number): void {
    const limit = this.limits[what];
    if (this.#used[what] + more <= limit) return;
    const retryAfterMs = more > limit ? undefined : countRetryAfterMs;
    throw new RefusedError({ reason: "quota", what: names[what], limit, retryAfterMs });
  }

  /** For one operation that may create something. */
  creation(): Creation {
    let hasRun = false;
    let hasNamespace = false;
    return {
      run: () => {
        const limit = this.limits.runsPerMinute;
        const what = "runs a minute";
        const refusal = hasRun ? undefined : this.#create(this.#runs, limit, what);
        hasRun = refusal === undefined;
        return refusal;
      },
      namespace: () => {
        const limit = this.limits.namespacesPerHour;
        const what = "namespaces an hour";
        const refusal = hasNamespace ? undefined : this.#create(this.#namespaces, limit, what);
        hasNamespace = refusal === undefined;
        return refusal;
      },
    };
  }

  #create(rate: Rate, limit: number, what: string): Refusal | undefined {
    const waitMs = rate.msUntil(limit, 1);
    if (waitMs === 0 && rate.tryAdd(limit, 1)) return undefined;
    const retryAfterMs = waitMs === Number.POSITIVE_INFINITY ? undefined : Math.ceil(waitMs);
    return {
      reason: "quota",
      what: `${what}, created by one identity at a node`,
      limit,
      retryAfterMs,
    };
  }

  /**
   * Counts bytes of events that are read now, unless those before were too many for their time.
   * One that is larger than the rate is read too, and those after it wait the longer.
   */
  tryRead(bytes: number): boolean {
    // What brings no events waits for nothing.
    return bytes === 0 || this.#bytes.tryAdd(this.limits.bytesPerSecond, bytes);
  }

  /** Calls back when tryRead may succeed; those who wait longest are first. The result takes it back. */
  onBytes(listener: () => void): () => void {
    this.#listeners.add(listener);
    this.#startTimer();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size > 0) return;
      this.#stopTimer?.();
      this.#stopTimer = undefined;
    };
  }

  /**
   * Waits until a window of events may be taken, and counts its bytes.
   *
   * @param maxWaitingBytes of windows that wait together
   * @throws RefusedError quota where too many wait; the reason of `signal`
   */
  async admitWindow(bytes: number, maxWaitingBytes: number, signal: AbortSignal): Promise<void> {
    if (this.tryRead(bytes)) return;
    if (this.#waitingBytes > 0 && this.#waitingBytes + bytes > maxWaitingBytes) {
      const limit = this.limits.bytesPerSecond;
      const retryAfterMs = Math.ceil(this.#bytes.msUntil(limit, this.#waitingBytes));
      const what = "bytes a second of one identity at a node, and other windows wait already";
      throw new RefusedError({ reason: "quota", what, limit, retryAfterMs });
    }
    this.#waitingBytes += bytes;
    try {
      await this.#untilRead(bytes, signal);
    } finally {
      this.#waitingBytes -= bytes;
    }
  }

  async #untilRead(bytes: number, signal: AbortSignal): Promise<void> {
    let wake: () => void = () => undefined;
    const onChange = () => wake();
    const cancel = this.onBytes(onChange);
    signal.addEventListener("abort", onChange);
    try {
      // Counted at once where it is let through: others are woken with it.
      while (!signal.aborted && !this.tryRead(bytes)) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      signal.throwIfAborted();
    } finally {
      signal.removeEventListener("abort", onChange);
      cancel();
    }
  }

  #startTimer(): void {
    if (this.#stopTimer !== undefined || this.#listeners.size === 0) return;
    const waitMs = this.#bytes.msUntil(this.limits.bytesPerSecond, 0);
    this.#stopTimer = this.#clock.after(Math.max(1, Math.min(waitMs, lookMs)), () => {
      this.#stopTimer = undefined;
      const isOver = this.#bytes.msUntil(this.limits.bytesPerSecond, 0) > 0;
      if (!isOver) for (const listener of [...this.#listeners]) listener();
      this.#startTimer();
    });
  }
}
