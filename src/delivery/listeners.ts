import type { CommittedRecord } from "../journal/committed-record.ts";
import { type Filter, isWithoutEvents, type Scope } from "./filter.ts";

/** Called when something may have become durable that a scope wants. It carries no data. */
export type Wake = () => void;

/** What of a filter decides when it is woken. */
export type Watched = Pick<Filter, "scope" | "kinds">;

/** By the id of a run; one has an entry while somebody waits for it. */
type ByRun = Map<string, Set<Wake>>;

/**
 * The waiters for news of a namespace, by scope. Those who want no
 * events are kept apart, so that events wake none of them.
 */
export class Listeners {
  readonly #some = new ScopeListeners();
  /** Those who want no events. */
  readonly #withoutEvents = new ScopeListeners();

  /** Whether nobody waits. */
  get isEmpty(): boolean {
    return this.#some.isEmpty && this.#withoutEvents.isEmpty;
  }

  /** Waits with a function of its own, until the returned one is called. */
  add(watched: Watched, wake: Wake): () => void {
    const listeners = isWithoutEvents(watched) ? this.#withoutEvents : this.#some;
    return listeners.add(watched.scope, wake);
  }

  /** Adds those who may want a record: at the cost of its run's depth, however many wait. */
  collect(record: CommittedRecord, woken: Set<Wake>): void {
    // Who wants events alone is woken by facts too: they may end a subscription.
    this.#some.collect(record, woken);
    if (record.firstRunSeq === 0) this.#withoutEvents.collect(record, woken);
  }

  /** Wakes everybody. */
  wakeAll(): void {
    this.#some.wakeAll();
    this.#withoutEvents.wakeAll();
  }
}

/** The waiters, by scope. */
class ScopeListeners {
  /** All of them. */
  readonly #all = new Set<Wake>();
  /** Those who want everything. */
  readonly #everything = new Set<Wake>();
  /** Those who want a run itself. */
  readonly #runs: ByRun = new Map();
  /** The waiters for a run and its descendants. */
  readonly #families: ByRun = new Map();

  get isEmpty(): boolean {
    return this.#all.size === 0;
  }

  add(scope: Scope, wake: Wake): () => void {
    this.#all.add(wake);
    const leave = this.#addTo(scope, wake);
    return () => {
      this.#all.delete(wake);
      leave();
    };
  }

  #addTo(scope: Scope, wake: Wake): () => void {
    switch (scope.kind) {
      case "all":
        this.#everything.add(wake);
        return () => this.#everything.delete(wake);
      case "ancestor":
        addTo(this.#families, scope.ancestorId, wake);
        return () => removeFrom(this.#families, scope.ancestorId, wake);
      case "runs":
        for (const runId of scope.runIds) addTo(this.#runs, runId, wake);
        return () => {
          for (const runId of scope.runIds) removeFrom(this.#runs, runId, wake);
        };
    }
  }

  collect({ lineage }: CommittedRecord, woken: Set<Wake>): void {
    for (const wake of this.#everything) woken.add(wake);
    collectFrom(this.#runs, lineage[0]!, woken);
    if (this.#families.size === 0) return;
    for (const runId of lineage) collectFrom(this.#families, runId, woken);
  }

  wakeAll(): void {
    for (const wake of this.#all) wake();
  }
}

function addTo(byRun: ByRun, runId: string, wake: Wake): void {
  const known = byRun.get(runId);
  if (known === undefined) byRun.set(runId, new Set([wake]));
  else known.add(wake);
}

function removeFrom(byRun: ByRun, runId: string, wake: Wake): void {
  const known = byRun.get(runId);
  known?.delete(wake);
  if (known?.size === 0) byRun.delete(runId);
}

function collectFrom(byRun: ByRun, runId: string, woken: Set<Wake>): void {
  const known = byRun.get(runId);
  if (known !== undefined) for (const wake of known) woken.add(wake);
}
