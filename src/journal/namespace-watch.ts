import type { Journal } from "./journal.ts";
import { findNamespaces, type NamespaceRow } from "./namespaces.ts";
import type { Notifications } from "./postgres/notifications.ts";

/** How many times longer a node waits between looks while notifications reach it. */
const heardFactor = 10;

/** Somebody who follows namespaces. */
export interface NamespaceFollower {
  /** The names of the namespaces that are followed now. */
  readonly followed: () => Iterable<string>;
  /** Whether a namespace is one of them; costs the same however many there are. */
  readonly isFollowed: (namespace: string) => boolean;
  /** Called with each followed namespace as it is now, in order, also where it has not changed. */
  readonly onRow: (row: NamespaceRow) => void;
}

/** What the watch works with. */
export interface NamespaceWatchOptions {
  readonly journal: Journal;
  readonly notifications: Notifications;
  /** Milliseconds between looks where wake-ups do not arrive. */
  readonly pollIntervalMs: number;
  readonly followers: readonly NamespaceFollower[];
  /** Called when a look failed; the next one comes anyway. */
  readonly onFailure: (error: unknown) => void;
}

/**
 * Looks at namespaces that somebody follows, for what other nodes have done to
 * them: after each wake-up, and from time to time, since wake-ups may be lost.
 *
 * A wake-up costs what it names, however many namespaces are followed.
 */
export class NamespaceWatch {
  readonly #options: NamespaceWatchOptions;
  #timer: NodeJS.Timeout | undefined;
  #ticks = 0;
  /** Namespaces to look at next; all that are followed where it is "all". */
  #due: Set<string> | "all" = new Set();
  #isLooking = false;
  #looking: Promise<void> | undefined;
  #isStopped = false;

  constructor(options: NamespaceWatchOptions) {
    this.#options = options;
  }

  /** Begins to listen and to look. */
  start(): void {
    const { notifications, pollIntervalMs } = this.#options;
    notifications.listen((news) => {
      this.#hear(news);
    });
    this.#timer = setInterval(() => {
      this.#ticks++;
      if (notifications.isConnected && this.#ticks % heardFactor !== 0) return;
      this.#due = "all";
      this.#look();
    }, pollIntervalMs);
  }

  /** Looks at a namespace now, for a new follower. */
  look(namespace: string): void {
    if (this.#due !== "all") this.#due.add(namespace);
    this.#look();
  }

  /** Stops; resolves when no look is under way any more. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    clearInterval(this.#timer);
    await this.#looking;
  }

  #hear(news: readonly string[] | "lost"): void {
    if (news === "lost") {
      this.#due = "all";
      this.#look();
      return;
    }
    if (this.#due !== "all") for (const one of news) this.#due.add(one);
    this.#look();
  }

  /** One look at a time: a notification that comes meanwhile causes the next one. */
  #look(): void {
    if (this.#isStopped || this.#isLooking) return;
    this.#isLooking = true;
    this.#looking = this.#lookAll();
  }

  async #lookAll(): Promise<void> {
    const { journal, followers, onFailure } = this.#options;
    try {
      for (let names = this.#takeDue(); names.length > 0; names = this.#takeDue()) {
        const find = (some: readonly string[]) => findNamespaces(journal.db, some);
        for (const row of await journal.history.readAll(names, find)) {
          for (const follower of followers) if (follower.isFollowed(row.name)) follower.onRow(row);
        }
      }
    } catch (error) {
      if (!this.#isStopped) onFailure(error);
    } finally {
      // At once: a notification from now on begins another look.
      this.#isLooking = false;
    }
  }

  #takeDue(): readonly string[] {
    if (this.#isStopped) return [];
    const due = this.#due;
    this.#due = new Set();
    const { followers } = this.#options;
    if (due === "all") return [...new Set(followers.flatMap(({ followed }) => [...followed()]))];
    return [...due].filter((name) => followers.some(({ isFollowed }) => isFollowed(name)));
  }
}
