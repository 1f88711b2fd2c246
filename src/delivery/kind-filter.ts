/**
 * Which kinds of records a subscriber wants. A record is of one kind as a whole, which
 * its row tells, so nothing is decoded for it.
 */
import { RecordKind } from "../../gen/runlog/v1/record_pb.js";
import { invalidField } from "../refusal.ts";

/** What tells the kind of a record. */
export interface KindMarks {
  /** 0 for a signal and for a fact. */
  readonly firstRunSeq: number;
  /** Empty for a fact. */
  readonly types: string;
}

/** The kinds that there are. */
const allKinds: readonly RecordKind[] = [RecordKind.EVENT, RecordKind.SIGNAL, RecordKind.LIFECYCLE];

function kindOf({ firstRunSeq, types }: KindMarks): RecordKind {
  if (firstRunSeq > 0) return RecordKind.EVENT;
  return types === "" ? RecordKind.LIFECYCLE : RecordKind.SIGNAL;
}

/** Some of the kinds, not all of them. */
export class KindFilter {
  readonly #kinds: ReadonlySet<RecordKind>;

  private constructor(kinds: ReadonlySet<RecordKind>) {
    this.#kinds = kinds;
  }

  /**
   * Checks the kinds of a filter; undefined where there are none or all, which
   * means every kind.
   *
   * @throws RefusedError with the field at fault
   */
  static parse(field: string, kinds: readonly RecordKind[]): KindFilter | undefined {
    if (kinds.length > allKinds.length) {
      throw invalidField(field, `has more than ${allKinds.length} kinds`, allKinds.length);
    }
    for (const [index, kind] of kinds.entries()) {
      if (allKinds.includes(kind)) continue;
      throw invalidField(`${field}[${index}]`, `is ${kind}, which is no kind of record`);
    }
    const set = new Set(kinds);
    return set.size === 0 || set.size === allKinds.length ? undefined : new KindFilter(set);
  }

  /** Whether events are wanted. */
  get hasEvents(): boolean {
    return this.#kinds.has(RecordKind.EVENT);
  }

  /** Whether everything is wanted that is no event, and nothing else. */
  get isAllButEvents(): boolean {
    return !this.hasEvents && this.#kinds.size === allKinds.length - 1;
  }

  /** Whether a record is wanted. */
  wants(record: KindMarks): boolean {
    return this.#kinds.has(kindOf(record));
  }
}
