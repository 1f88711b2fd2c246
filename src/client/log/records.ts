/** The records of a journal as plain values, told apart by `kind`. */
import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import type { Event } from "../../../gen/runlog/v1/event_pb.js";
import type {
  RunFinished,
  RunStarted,
  RunWaiting,
  SequencedEvent,
  Signal,
} from "../../../gen/runlog/v1/record_pb.js";
import { toNumber } from "../uint64.ts";
import { Payload } from "./payload.ts";
import {
  descriptionOf,
  type EndStateName,
  type Failure,
  type Fork,
  failureFrom,
  forkFrom,
  outputOf,
  type RunDescription,
  stateNameOf,
} from "./run-info.ts";

/** What a record carries beside its place. */
interface Content {
  readonly type?: string;
  readonly bytes?: Uint8Array;
  readonly contentType?: string;
  readonly attributes?: Readonly<Record<string, string>>;
  readonly time?: Timestamp | undefined;
}

const nothing = new Uint8Array();

/** What all records have. */
abstract class Base extends Payload {
  /** Place in the journal: the cursor. */
  readonly seq: number;
  readonly runId: string;
  /** Place among the events of the run: 1, 2, 3, …; 0 for everything else. */
  readonly runSeq: number;
  /** Of an event, a signal or a question; "" for everything else. */
  readonly type: string;
  readonly attributes: Readonly<Record<string, string>>;
  /** When it happened, by its sender's clock; for everything but events and signals, as recordTime. */
  readonly time: Date;
  /** When it was recorded, by the server's clock. Never decreases as seq grows. */
  readonly recordTime: Date;

  constructor({ seq, runId, runSeq, recordTime }: SequencedEvent, content: Content = {}) {
    super(content.bytes ?? nothing, content.contentType ?? "");
    this.seq = toNumber(seq, "seq");
    this.runId = runId;
    this.runSeq = toNumber(runSeq, "run_seq");
    this.type = content.type ?? "";
    this.attributes = content.attributes ?? {};
    this.recordTime = recordTime === undefined ? new Date(0) : timestampDate(recordTime);
    this.time = content.time === undefined ? this.recordTime : timestampDate(content.time);
  }
}

/** A producer's event. */
export class EventRecord extends Base {
  readonly kind = "event";
}

/** Input to a run, from anybody. */
export class SignalRecord extends Base {
  readonly kind = "signal";
  readonly signalId: string;
  /** Place among the signals of the run: 1, 2, 3, … */
  readonly signalSeq: number;
  /** Who sent it, where the server authenticates; else "". */
  readonly sender: string;

  constructor(record: SequencedEvent, { signalId, signalSeq, sender, event }: Signal) {
    super(record, contentOf(event));
    this.signalId = signalId;
    this.signalSeq = toNumber(signalSeq, "signal_seq");
    this.sender = sender;
  }
}

/** A run has begun. */
export class StartedRecord extends Base {
  readonly kind = "started";
  readonly run: RunDescription;
  /** The root of its family; the run itself for a root. */
  readonly rootRunId: string;
  /** 0 for a root. */
  readonly depth: number;
  readonly fork: Fork | undefined;

  constructor(record: SequencedEvent, { spec, rootRunId, depth, fork }: RunStarted) {
    super(record);
    this.run = descriptionOf(spec);
    this.rootRunId = rootRunId;
    this.depth = depth;
    this.fork = fork && forkFrom(fork);
  }
}

/** A run has ended; `json()`, `text()` and `bytes` are its output. */
export class FinishedRecord extends Base {
  readonly kind = "finished";
  readonly state: EndStateName;
  readonly failure: Failure | undefined;
  /** What failed while the run handled its failure, or stopped. */
  readonly suppressed: readonly Failure[];

  constructor(record: SequencedEvent, { result }: RunFinished, state: EndStateName) {
    const { bytes, contentType } = outputOf(result);
    super(record, { bytes, contentType });
    this.state = state;
    this.failure = result?.failure && failureFrom(result.failure);
    this.suppressed = result?.suppressed.map(failureFrom) ?? [];
  }
}

/** A run has lost its producer, or its wait was over without an answer. It may be resumed. */
export class LostRecord extends Base {
  readonly kind = "lost";
  readonly failure: Failure | undefined;

  constructor(record: SequencedEvent, { result }: RunFinished) {
    super(record);
    this.failure = result?.failure && failureFrom(result.failure);
  }
}

/** A lost run was opened again, or a waiting one goes on. */
export class ResumedRecord extends Base {
  readonly kind = "resumed";
}

/** A run waits for input; `json()`, `text()` and `bytes` are its question. */
export class WaitingRecord extends Base {
  readonly kind = "waiting";
  /** What for, as the producer chose it: "approval", "input". */
  readonly code: string;
  /** When the run is lost unless it goes on before. */
  readonly deadline: Date | undefined;

  constructor(record: SequencedEvent, { wait }: RunWaiting) {
    super(record, contentOf(wait?.question));
    this.code = wait?.code ?? "";
    this.deadline = wait?.deadline && timestampDate(wait.deadline);
  }
}

/** A record of a newer server, which this client does not know. */
export class UnknownRecord extends Base {
  readonly kind = "unknown";
}

/** A record of a journal. */
export type LogRecord =
  | EventRecord
  | SignalRecord
  | StartedRecord
  | FinishedRecord
  | LostRecord
  | ResumedRecord
  | WaitingRecord
  | UnknownRecord;

function contentOf(event: Event | undefined): Content {
  if (event === undefined) return {};
  const { type, data, contentType, attributes, time } = event;
  return { type, bytes: data, contentType, attributes, time };
}

/**
 * The plain form of a record.
 *
 * @throws RangeError where a number of it is beyond 2^53 - 1
 */
export function recordOf(message: SequencedEvent): LogRecord {
  const { record } = message;
  switch (record.case) {
    case "event":
      return new EventRecord(message, contentOf(record.value));
    case "signal":
      return new SignalRecord(message, record.value);
    case "runStarted":
      return new StartedRecord(message, record.value);
    case "runFinished":
      return finishedOf(message, record.value);
    case "runResumed":
      return new ResumedRecord(message);
    case "runWaiting":
      return new WaitingRecord(message, record.value);
    default:
      return new UnknownRecord(message);
  }
}

function finishedOf(message: SequencedEvent, finished: RunFinished): LogRecord {
  const state = finished.result && stateNameOf(finished.result.state);
  switch (state) {
    case "SUCCEEDED":
    case "FAILED":
    case "CANCELLED":
      return new FinishedRecord(message, finished, state);
    case "LOST":
      return new LostRecord(message, finished);
    default:
      return new UnknownRecord(message);
  }
}
