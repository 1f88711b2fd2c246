/**
 * Gives the events and facts of a group their seqs and turns them into records.
 *
 * Events of one run are gathered in one record as long as no fact comes in
 * between and it does not grow too large; so a record is an append batch,
 * however small the appends were.
 */
import { checksumOf } from "../journal/checksum.ts";
import type { CommittedRecord } from "../journal/committed-record.ts";
import type { NewRecord } from "../journal/records.ts";
import { maxRecordBytes } from "../limits.ts";
import {
  type FactKind,
  layOutEvents,
  layOutFact,
  layOutSignal,
  writeRecords,
} from "../wire/event-batch.ts";
import type { CheckedEvent, Place } from "./operation.ts";
import type { StagedRun } from "./staged-run.ts";

interface OpenRecord {
  readonly staged: StagedRun;
  readonly firstRunSeq: number;
  /** Encoded. */
  readonly events: Uint8Array[];
  readonly types: Set<string>;
  /** By the index of an event that moved it: the run's position in its signals. */
  handled: Map<number, number> | undefined;
  bytes: number;
  /** Places of its events that get their seqs with the record. */
  readonly places: Place[];
}

/** The records of one group, in seq order. */
export class RecordBuilder {
  /** As rows of the journal. */
  readonly rows: NewRecord[] = [];
  /** As what subscribers are matched with. */
  readonly records: CommittedRecord[] = [];
  /** record_time of the whole group. */
  readonly timeMs: number;
  readonly #open = new Map<StagedRun, OpenRecord>();
  #lastSeq: number;

  /**
   * @param lastSeq newest seq of the namespace
   * @param timeMs record_time of the whole group
   */
  constructor(lastSeq: number, timeMs: number) {
    this.#lastSeq = lastSeq;
    this.timeMs = timeMs;
  }

  /** The newest seq that was given out. */
  get lastSeq(): number {
    return this.#lastSeq;
  }

  /**
   * Adds the run's next event.
   *
   * @param handledSignalSeq the run's position in its signals, where it moves with this event
   */
  addEvent(staged: StagedRun, event: CheckedEvent, handledSignalSeq?: number): void {
    let record = this.#open.get(staged);
    if (record !== undefined && record.bytes + event.bytes.length > maxRecordBytes) {
      this.#seal([record]);
      record = undefined;
    }
    if (record === undefined) {
      const firstRunSeq = staged.row.last_run_seq + 1;
      const types = new Set<string>();
      record = { staged, firstRunSeq, events: [], types, handled: undefined, bytes: 0, places: [] };
      this.#open.set(staged, record);
    }
    if (handledSignalSeq !== undefined) {
      record.handled ??= new Map();
      record.handled.set(record.events.length, handledSignalSeq);
    }
    record.events.push(event.bytes);
    record.types.add(event.type);
    record.bytes += event.bytes.length;
    staged.added.push(event);
    staged.row.last_run_seq++;
    staged.row.event_bytes += event.bytes.length;
  }

  /** The place of the run's last event as of now; its seq is set when its record is sealed. */
  placeOfLast(staged: StagedRun): Place {
    const runSeq = staged.row.last_run_seq;
    const record = this.#open.get(staged);
    if (record === undefined) return { runSeq, seq: staged.row.last_event_seq };
    const place = { runSeq, seq: 0 };
    record.places.push(place);
    return place;
  }

  /** Adds a signal to a run, behind the run's events that came before it; returns its seq. */
  addSignal(staged: StagedRun, types: string, body: Uint8Array): number {
    this.seal(staged);
    const seq = this.#lastSeq + 1;
    const [data] = writeRecords([layOutSignal(this.#headOf(staged, seq), body)]);
    this.#push(staged, { count: 1, firstRunSeq: 0, types, data: data! });
    return seq;
  }

  /** Adds a fact about a run, behind everything that came before it. */
  addFact(staged: StagedRun, kind: FactKind, body: Uint8Array): void {
    this.sealAll();
    const [data] = writeRecords([layOutFact(this.#headOf(staged, this.#lastSeq + 1), kind, body)]);
    this.#push(staged, { count: 1, firstRunSeq: 0, types: "", data: data! });
  }

  /** Gives the run's last event its seq. */
  seal(staged: StagedRun): void {
    const record = this.#open.get(staged);
    if (record !== undefined) this.#seal([record]);
  }

  /** Gives every event its seq. */
  sealAll(): void {
    if (this.#open.size > 0) this.#seal([...this.#open.values()]);
  }

  #headOf(staged: StagedRun, firstSeq: number) {
    return { firstSeq, runId: staged.row.run_id, timeMs: this.timeMs };
  }

  /** Gives records their seqs; in one piece of memory, since they are kept and let go together. */
  #seal(records: readonly OpenRecord[]): void {
    let firstSeq = this.#lastSeq + 1;
    const layouts = records.map(({ staged, firstRunSeq, events, handled }) => {
      const layout = layOutEvents(this.#headOf(staged, firstSeq), firstRunSeq, events, handled);
      firstSeq += events.length;
      return layout;
    });
    const written = writeRecords(layouts);
    for (const [index, record] of records.entries()) this.#place(record, written[index]!);
  }

  #place({ staged, events, firstRunSeq, types, places }: OpenRecord, data: Uint8Array): void {
    const firstSeq = this.#lastSeq + 1;
    this.#push(staged, { count: events.length, firstRunSeq, types: [...types].join("\n"), data });
    staged.row.last_event_seq = this.#lastSeq;
    for (const place of places) place.seq = firstSeq + place.runSeq - firstRunSeq;
    this.#open.delete(staged);
  }

  #push(
    staged: StagedRun,
    record: { count: number; firstRunSeq: number; types: string; data: Uint8Array },
  ): void {
    const { count, firstRunSeq, types, data } = record;
    const firstSeq = this.#lastSeq + 1;
    this.#lastSeq += count;
    staged.row.last_seq = this.#lastSeq;
    const row = {
      namespace_id: staged.row.namespace_id,
      last_seq: this.#lastSeq,
      event_count: count,
      run_key: staged.row.run_key,
      root_key: staged.row.root_key,
      first_run_seq: firstRunSeq,
      types,
      size: data.length,
      data,
      checksum: 0,
    };
    row.checksum = checksumOf(row);
    this.rows.push(row);
    this.records.push({ firstSeq, count, lineage: staged.lineage, firstRunSeq, types, data });
  }
}
