import { startTimer } from "./timers.ts";

/** What the memory is for, with its share of the whole. The rest is common. */
const shares = {
  /** Messages that have not arrived whole. The one that has taken longest is refused. */
  messages: { part: 1 / 4, evictAfterMs: 0 },
  /** Appends that await their commit. Streams are not read; windows are refused. */
  appends: { part: 1 / 4, evictAfterMs: Number.POSITIVE_INFINITY },
  /** Answers that their clients do not read. The one that has waited longest is cut. */
  frames: { part: 1 / 8, evictAfterMs: 2_000 },
  /** Pages of subscribers that do not read. They are dropped, and read again later. */
  pages: { part: 1 / 16, evictAfterMs: 0 },
  /** Filters and cursors. New subscriptions are refused. */
  subscriptions: { part: 1 / 16, evictAfterMs: Number.POSITIVE_INFINITY },
} as const;

/** The tail's own part: while the rest is used up, subscribers that are up to date still read no journal. */
const tailPart = 1 / 32;

/** A class of memory. */
export type MemoryClass = keyof typeof shares;

/** Milliseconds after which one that was refused for want of memory may try again. */
export const retryAfterMs = 1_000;

/** Milliseconds between looks at those who wait, besides each release. */
const lookMs = 100;

/**
 * One ceiling for what clients can make the process hold in memory.
 *
 * Each class of memory has a share that is its own, so that none starves another, and
 * what no share has is for whoever needs more, and for the tail until then: the tail gives
 * way, up to a small part of its own. Bytes are counted where they are many, once for a batch, a page or a message, so the
 * ceiling is approximate: it leaves out what is small and bounded by other limits.
 *
 * A class that has used up its share and the rest is over. Then, as the class can, those
 * who have held memory longest let go of it, or new work waits, or is refused.
 */
export class MemoryBudget {
  readonly messages: MemoryShare;
  readonly appends: MemoryShare;
  readonly frames: MemoryShare;
  readonly pages: MemoryShare;
  readonly subscriptions: MemoryShare;
  readonly #commonBytes: number;
  readonly #tailBytes: number;
  readonly #onTail: (bytes: number) => void;
  /** What classes have taken beyond their shares. */
  #borrowedBytes = 0;

  /**
   * @param totalBytes the ceiling
   * @param onTail told how much the tail may have, whenever that changes
   */
  constructor(totalBytes: number, onTail: (bytes: number) => void = () => undefined) {
    this.#onTail = onTail;
    this.#tailBytes = Math.floor(totalBytes * tailPart);
    let commonBytes = totalBytes - this.#tailBytes;
    const shareOf = (name: MemoryClass) => {
      const { part, evictAfterMs } = shares[name];
      const ownBytes = Math.floor(totalBytes * part);
      commonBytes -= ownBytes;
      return new MemoryShare(ownBytes, evictAfterMs, this);
    };
    this.messages = shareOf("messages");
    this.appends = shareOf("appends");
    this.frames = shareOf("frames");
    this.pages = shareOf("pages");
    this.subscriptions = shareOf("subscriptions");
    this.#commonBytes = commonBytes;
    onTail(this.#tailBytes + commonBytes);
  }

  /** Bytes of the common part that no class has borrowed; negative where they have borrowed too much. */
  get commonBytes(): number {
    return this.#commonBytes - this.#borrowedBytes;
  }

  /** Bytes that all classes use together. */
  get usedBytes(): number {
    const all = [this.messages, this.appends, this.frames, this.pages, this.subscriptions];
    return all.reduce((sum, share) => sum + share.usedBytes, 0);
  }

  /** A class has borrowed so much more, or given it back. */
  borrow(bytes: number): void {
    if (bytes === 0) return;
    this.#borrowedBytes += bytes;
    this.#onTail(this.#tailBytes + Math.max(0, this.commonBytes));
  }
}

/** The memory of one class. */
export class MemoryShare {
  readonly #ownBytes: number;
  readonly #evictAfterMs: number;
  readonly #budget: MemoryBudget;
  /** Those who can let go, the one that has held longest first. */
  readonly #holds = new Set<MemoryHold>();
  readonly #waiting = new Set<() => void>();
  #usedBytes = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(ownBytes: number, evictAfterMs: number, budget: MemoryBudget) {
    this.#ownBytes = ownBytes;
    this.#evictAfterMs = evictAfterMs;
    this.#budget = budget;
  }

  /** Bytes. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Bytes that can be taken now. */
  get freeBytes(): number {
    return Math.max(0, this.#ownBytes - this.#usedBytes) + Math.max(0, this.#budget.commonBytes);
  }

  /** Whether more is used than there is. */
  get isOver(): boolean {
    return this.#usedBytes > this.#ownBytes && this.#budget.commonBytes < 0;
  }

  /** Takes bytes, also where there are none left: whoever must not wait does. */
  take(bytes: number): void {
    this.#change(bytes);
    if (this.isOver) this.#evict();
  }

  /** Takes bytes if there are so many. */
  tryTake(bytes: number): boolean {
    if (bytes > this.freeBytes) return false;
    this.#change(bytes);
    return true;
  }

  /** Gives bytes back. */
  give(bytes: number): void {
    this.#change(-bytes);
    if (this.#waiting.size > 0 && !this.isOver) this.#wake();
  }

  /** Resolves once the class is not over, which those who hold too long see to. */
  async untilRoom(): Promise<void> {
    while (this.isOver) {
      this.#look();
      await new Promise<void>((resolve) => {
        this.#waiting.add(resolve);
      });
    }
  }

  /** For one client of many, see MemoryPart. */
  part(): MemoryPart {
    return new MemoryPart(this);
  }

  /** @param onEvicted called when others need the memory; the hold counts as given back */
  hold(onEvicted: () => void): MemoryHold {
    return new MemoryHold(this, this.#holds, onEvicted);
  }

  #change(bytes: number): void {
    const before = Math.max(0, this.#usedBytes - this.#ownBytes);
    this.#usedBytes += bytes;
    this.#budget.borrow(Math.max(0, this.#usedBytes - this.#ownBytes) - before);
  }

  #evict(): void {
    for (const oldest of this.#holds) {
      if (!this.isOver) return;
      if (performance.now() - oldest.sinceMs < this.#evictAfterMs) {
        this.#look();
        return;
      }
      oldest.evict();
    }
  }

  #wake(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const resolve of waiting) resolve();
  }

  /** Looks again soon, for as long as it is over or somebody waits. */
  #look(): void {
    if (this.#evictAfterMs === Number.POSITIVE_INFINITY && this.#waiting.size === 0) return;
    this.#timer ??= startTimer(() => {
      this.#timer = undefined;
      if (this.isOver) this.#evict();
      if (!this.isOver) this.#wake();
      else this.#look();
    }, lookMs).unref();
  }
}

/**
 * What one client may take of a class without letting go of it: the less is left, the
 * less it may have, so that it leaves something to the others.
 */
export class MemoryPart {
  readonly #share: MemoryShare;
  #usedBytes = 0;

  constructor(share: MemoryShare) {
    this.#share = share;
  }

  /** Takes bytes if that is not too much. */
  tryTake(bytes: number): boolean {
    if (this.#usedBytes + bytes > this.#share.freeBytes / 2) return false;
    if (!this.#share.tryTake(bytes)) return false;
    this.#usedBytes += bytes;
    return true;
  }

  /** Gives bytes back. */
  give(bytes: number): void {
    this.#usedBytes -= bytes;
    this.#share.give(bytes);
  }

  /** For one client of this one. */
  part(): MemoryPart {
    return this;
  }
}

/** What one client makes the process hold, and can be made to let go of. */
export class MemoryHold {
  readonly #share: MemoryShare;
  readonly #holds: Set<MemoryHold>;
  readonly #onEvicted: () => void;
  #bytes = 0;
  #sinceMs = 0;

  constructor(share: MemoryShare, holds: Set<MemoryHold>, onEvicted: () => void) {
    this.#share = share;
    this.#holds = holds;
    this.#onEvicted = onEvicted;
  }

  /** Since when it has held something, of performance.now(). */
  get sinceMs(): number {
    return this.#sinceMs;
  }

  /** It holds so much now. The time that it has held something goes on. */
  set(bytes: number): void {
    const more = bytes - this.#bytes;
    if (more === 0) return;
    if (this.#bytes === 0) {
      this.#sinceMs = performance.now();
      this.#holds.add(this);
    }
    this.#bytes = bytes;
    if (bytes === 0) this.#holds.delete(this);
    if (more > 0) this.#share.take(more);
    else this.#share.give(-more);
  }

  /** It holds nothing any more. */
  release(): void {
    this.set(0);
  }

  /** Makes it let go. */
  evict(): void {
    this.set(0);
    this.#onEvicted();
  }
}
