/** What a subscriber asks for, and what it is served from. */
import type { Journal } from "../journal/journal.ts";
import type { Limits } from "../limits.ts";
import type { MemoryBudget, MemoryPart, MemoryShare } from "../memory-budget.ts";
import type { Usage } from "../quotas.ts";
import type { Filter } from "./filter.ts";
import type { Tails } from "./tails.ts";

/** When a subscription ends by itself. */
export type Stop = "never" | "caught_up" | "finished";

/** Where to start; all but the first are turned into a seq once. */
export type Start =
  | { readonly t: "after"; readonly seq: number }
  | { readonly t: "now" }
  /** With the newest items that match, at most so many. */
  | { readonly t: "last"; readonly count: number }
  /** At the first record of this time or later; milliseconds since 1970. */
  | { readonly t: "from"; readonly timeMs: number };

/** What to deliver. */
export interface SubscriptionSpec {
  readonly namespace: string;
  readonly filter: Filter;
  readonly start: Start;
  readonly stop: Stop;
  /** Milliseconds without a frame after which Progress is sent. */
  readonly progressIntervalMs: number;
  /** Whether runs that do not exist are waited for. */
  readonly allowMissing: boolean;
  /** The journal that the cursor came from; empty skips the check. */
  readonly journalId: string;
}

/** The memory that delivery takes. */
export interface DeliveryMemory extends Pick<MemoryBudget, "frames" | "pages"> {
  readonly subscriptions: MemoryShare | MemoryPart;
}

/** What subscriptions read from. */
export interface DeliveryOptions {
  readonly journal: Journal;
  readonly tails: Tails;
  readonly memory: DeliveryMemory;
  readonly limits: Limits;
  /** What the subscriber's identity uses. Default: nobody counts. */
  readonly usage?: Usage | undefined;
}
