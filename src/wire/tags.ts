/**
 * The tags of the fields that are read and written by hand: a field's number,
 * and how it is encoded. Each is called after its message and its field, as
 * `appendRunId` is Append.run_id; `test/wire/tags.test.ts` holds every one to
 * the contract's descriptors.
 *
 * Invariant: each tag is one byte.
 */
import { WireType } from "@bufbuild/protobuf/wire";

const varint = WireType.Varint;
const lengthDelimited = WireType.LengthDelimited;

/** google.protobuf.Timestamp.seconds */
export const timestampSeconds = (1 << 3) | varint;
/** google.protobuf.Timestamp.nanos */
export const timestampNanos = (2 << 3) | varint;

/** Event.type */
export const eventType = (1 << 3) | lengthDelimited;
/** Event.data */
export const eventData = (2 << 3) | lengthDelimited;
/** Event.content_type */
export const eventContentType = (3 << 3) | lengthDelimited;
/** Event.time */
export const eventTime = (4 << 3) | lengthDelimited;
/** Event.attributes: each pair is a message of its own. */
export const eventAttributes = (5 << 3) | lengthDelimited;
/** The key in a pair of Event.attributes. */
export const eventAttributesKey = (1 << 3) | lengthDelimited;
/** The value in a pair of Event.attributes. */
export const eventAttributesValue = (2 << 3) | lengthDelimited;

/** IngestRequest.append */
export const ingestRequestAppend = (2 << 3) | lengthDelimited;
/** Append.run_id */
export const appendRunId = (1 << 3) | lengthDelimited;
/** Append.first_run_seq */
export const appendFirstRunSeq = (2 << 3) | varint;
/** Append.events */
export const appendEvents = (3 << 3) | lengthDelimited;
/** Append.handled_signal_seq */
export const appendHandledSignalSeq = (4 << 3) | varint;

/** IngestResponse.ack */
export const ingestResponseAck = (2 << 3) | lengthDelimited;
/** AppendAck.run_id */
export const appendAckRunId = (1 << 3) | lengthDelimited;
/** AppendAck.run_seq */
export const appendAckRunSeq = (2 << 3) | varint;
/** AppendAck.seq */
export const appendAckSeq = (3 << 3) | varint;
/** AppendAck.handled_signal_seq */
export const appendAckHandledSignalSeq = (4 << 3) | varint;

/** SubscribeResponse.events */
export const subscribeResponseEvents = (2 << 3) | lengthDelimited;
/** EventBatch.events */
export const eventBatchEvents = (1 << 3) | lengthDelimited;

/** SequencedEvent.seq */
export const sequencedEventSeq = (1 << 3) | varint;
/** SequencedEvent.run_id */
export const sequencedEventRunId = (2 << 3) | lengthDelimited;
/** SequencedEvent.run_seq */
export const sequencedEventRunSeq = (3 << 3) | varint;
/** SequencedEvent.record_time */
export const sequencedEventRecordTime = (4 << 3) | lengthDelimited;
/** SequencedEvent.event */
export const sequencedEventEvent = (5 << 3) | lengthDelimited;
/** SequencedEvent.run_started */
export const sequencedEventRunStarted = (6 << 3) | lengthDelimited;
/** SequencedEvent.run_finished */
export const sequencedEventRunFinished = (7 << 3) | lengthDelimited;
/** SequencedEvent.run_resumed */
export const sequencedEventRunResumed = (8 << 3) | lengthDelimited;
/** SequencedEvent.signal */
export const sequencedEventSignal = (9 << 3) | lengthDelimited;
/** SequencedEvent.run_waiting */
export const sequencedEventRunWaiting = (10 << 3) | lengthDelimited;
/** SequencedEvent.handled_signal_seq */
export const sequencedEventHandledSignalSeq = (11 << 3) | varint;
