import type { CommittedRecord } from "../journal/committed-record.ts";
import { Deque } from "./deque.ts";
import type { Scope } from "./filter.ts";

/** Records in seq order. */
export type Records = Deque<CommittedRecord>;

/** By the id of a run; one has an entry while it has records. */
type ByRun = Map<string, Records>;

// Bytes of memory, as test/delivery/tails.test.ts measures them.
/** One of a record's places in a list. */
const placeBytes = 12;
/** A list of a run's records. */
const listBytes = 140;
/** A run id in the lineage of a run that has records. */
const lineageBytes = 90;

/**
 * Records in lists: all of them, those of each run, and those of each family.
 *
 * A record stands in the list of each run in its lineage, so that adding it and
 * reading a family's part cost the depth of its run, not the number of strangers'
 * records.
 */
export class RecordLists {
  readonly #everything: Records = new Deque();
  /** What a run itself has. */
  readonly #runs: ByRun = new Map();
  /** What a run and all below it have. */
  readonly #families: ByRun = new Map();
  #bytes = 0;

  /** Bytes that the lists take, about, without the records. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Whether there is nothing in them. */
  get isEmpty(): boolean {
    return this.#everything.length === 0;
  }

  /** Adds a record behind the others. */
  push(record: CommittedRecord): void {
    const { lineage } = record;
    this.#everything.push(record);
    this.#bytes += placesOf(record);
    if (this.#pushTo(this.#runs, lineage[0]!, record)) this.#bytes += lineageBytes * lineage.length;
    for (const runId of lineage) this.#pushTo(this.#families, runId, record);
  }

  /** Takes the oldest record. */
  shift(): CommittedRecord | undefined {
    const oldest = this.#everything.shift();
    if (oldest === undefined) return undefined;
    const { lineage } = oldest;
    this.#bytes -= placesOf(oldest);
    if (this.#shiftFrom(this.#runs, lineage[0]!)) this.#bytes -= lineageBytes * lineage.length;
    for (const runId of lineage) this.#shiftFrom(this.#families, runId);
    return oldest;
  }

  /** The lists in which a scope's records after a cursor stand, where there are any. */
  listsAfter(scope: Scope, afterSeq: number): (Records | undefined)[] {
    switch (scope.kind) {
      case "all":
        return [this.#everything];
      case "ancestor":
        return [this.#families.get(scope.ancestorId)];
      case "runs": {
        const inherited = scope.inherited?.filter(({ recordEndSeq }) => recordEndSeq > afterSeq);
        const runIds = [...scope.runIds, ...(inherited ?? []).map(({ runId }) => runId)];
        return [...new Set(runIds)].map((runId) => this.#runs.get(runId));
      }
    }
  }

  /** Whether the run has got a list by it. */
  #pushTo(byRun: ByRun, runId: string, record: CommittedRecord): boolean {
    const known = byRun.get(runId);
    const list = known ?? new Deque<CommittedRecord>();
    list.push(record);
    if (known !== undefined) return false;
    byRun.set(runId, list);
    this.#bytes += listBytes;
    return true;
  }

  /** Whether the run has lost its list by it. */
  #shiftFrom(byRun: ByRun, runId: string): boolean {
    const list = byRun.get(runId);
    list?.shift();
    if (list?.length !== 0) return false;
    byRun.delete(runId);
    this.#bytes -= listBytes;
    return true;
  }
}

function placesOf({ lineage }: CommittedRecord): number {
  return placeBytes * (2 + lineage.length);
}
