/**
 * Every limit of the server, with its unit and its reason. Nothing else in
 * `src/` holds a number that bounds input, memory or time.
 */

const KiB = 1024;
const MiB = 1024 * KiB;

/** What one server accepts and holds. Passed in, so that tests can shrink it. */
export interface Limits {
  /** Bytes of one encoded Event. Told to producers in IngestLimits. */
  readonly maxEventBytes: number;
  /** Bytes of the events of one Append. Told to producers in IngestLimits. */
  readonly maxAppendBytes: number;
  /**
   * Bytes of one message on the wire. Above maxAppendBytes, so that an append
   * over its limit is told so by us and not cut by the transport.
   */
  readonly maxMessageBytes: number;
  /** Events of one run that may await acknowledgement. */
  readonly maxUnackedEvents: number;
  /** Bytes that one Ingest stream may have uncommitted before it is no longer read. */
  readonly maxPendingBytesPerStream: number;
  /** Frames of one Ingest stream that may await their commit before it is no longer read. */
  readonly maxPendingFramesPerStream: number;
  /** Runs that one Ingest stream may hold open. */
  readonly maxOpenRunsPerStream: number;
  /** Bytes that go into one transaction at most: bounds its memory and its duration. */
  readonly maxCommitBytes: number;
  /** Operations that go into one transaction at most. */
  readonly maxCommitOps: number;
  /** Bytes of the newest records kept in memory, per namespace. */
  readonly tailBytes: number;
  /** Records that one page of a subscription reads at most. */
  readonly pageRecords: number;
  /** Bytes that one page of a subscription reads at most, if it holds two records or more. */
  readonly pageBytes: number;
  /** Bytes of one frame to a subscriber, unless one record alone is larger. */
  readonly frameBytes: number;
  /** Milliseconds between Progress frames where the subscriber does not say. */
  readonly progressIntervalMs: number;
  /** Milliseconds that a run may be without a producer where its spec does not say. */
  readonly defaultLeaseMs: number;
  /** Milliseconds between looks for trees whose retention is over. */
  readonly retentionIntervalMs: number;
  /** Milliseconds that one message may take to arrive once it has begun. */
  readonly messageTimeoutMs: number;
  /**
   * Milliseconds, about, after which an HTTP/2 connection is asked to go, so that
   * long streams spread over new nodes. Each one's own age differs by a tenth.
   */
  readonly maxConnectionAgeMs: number;
  /** Milliseconds that one transaction may wait for the database's lock. */
  readonly lockTimeoutMs: number;
}

/** The defaults of a server. */
export const defaultLimits: Limits = {
  maxEventBytes: 1 * MiB,
  maxAppendBytes: 4 * MiB,
  maxMessageBytes: 8 * MiB,
  maxUnackedEvents: 100_000,
  maxPendingBytesPerStream: 16 * MiB,
  maxPendingFramesPerStream: 1_024,
  maxOpenRunsPerStream: 10_000,
  maxCommitBytes: 16 * MiB,
  maxCommitOps: 4_096,
  tailBytes: 64 * MiB,
  pageRecords: 256,
  pageBytes: 1 * MiB,
  frameBytes: 256 * KiB,
  progressIntervalMs: 15_000,
  defaultLeaseMs: 60_000,
  retentionIntervalMs: 10_000,
  messageTimeoutMs: 30_000,
  maxConnectionAgeMs: 3_600_000,
  lockTimeoutMs: 5_000,
};

/** Bytes of a namespace's name. It stands in metrics and on command lines. */
export const maxNamespaceBytes = 63;
/** Bytes of a run id: a UUID, or a path-like name of the producer's. */
export const maxRunIdBytes = 128;
/** Bytes of Event.type, as the contract says. */
export const maxTypeBytes = 128;
/** Bytes of a media type. */
export const maxContentTypeBytes = 128;
/** Event.attributes, as the contract says. */
export const maxAttributes = 16;
/** Bytes of an attribute's value: tracestate may take 512. */
export const maxAttributeValueBytes = 1 * KiB;
/** RunSpec.labels, as the contract says. */
export const maxLabels = 32;
/** Bytes of the key of a label or an attribute, as the contract says. */
export const maxKeyBytes = 63;
/** Bytes of a label's value, as the contract says. */
export const maxLabelValueBytes = 256;
/** Bytes of the other strings of a RunSpec. */
export const maxSpecStringBytes = 256;
/** Edges between a root and a run. The closure holds a row per ancestor. */
export const maxDepth = 64;
/** RunIdsScope.run_ids, as the contract says. */
export const maxFilterRunIds = 100;
/** EventFilter.event_types, as the contract says. */
export const maxFilterTypes = 32;
/** Runs or records in one page of a list, as the contract says. */
export const maxPageSize = 1_000;
/** Runs or records in one page of a list where the caller does not say. */
export const defaultPageSize = 100;
/** RunResult.suppressed. */
export const maxSuppressed = 100;
/** Milliseconds; shorter leases lapse during a garbage collection. */
export const minLeaseMs = 1_000;
/** Milliseconds; 30 days. */
export const maxLeaseMs = 30 * 24 * 3_600_000;
/** Milliseconds; what is kept for less was not worth writing. */
export const minRetentionMs = 1_000;
/** Milliseconds; 100 years: longer is for ever, which is no retention at all. */
export const maxRetentionMs = 100 * 365 * 24 * 3_600_000;
/** Bytes of the reason that producers are told when they are asked to stop. */
export const maxReasonBytes = 1 * KiB;
/** Milliseconds; a subscriber that wants more asks for load, not for news. */
export const minProgressIntervalMs = 1_000;
/**
 * Bytes of events in one record. A larger Append becomes several records, so
 * that a page's memory is bounded by its number of bytes.
 */
export const maxRecordBytes = 256 * KiB;
