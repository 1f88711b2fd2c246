/**
 * Every limit of the server, with its unit and its reason. Nothing else in
 * `src/` holds a number that bounds input, memory or time.
 *
 * Invariant: a limit of a server stands once, in `limitSpecs`. The type, the
 * defaults, what an operator may set, `serve --help` and docs/limits.md come
 * from there; the constants below are the contract's and nobody sets them.
 */

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;
const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;

/** What a limit's number counts. */
export type LimitUnit = "bytes" | "milliseconds" | "count";

/** What an operator may make of a limit. */
export interface LimitRange {
  /** Smallest value, inclusive. */
  readonly min: number;
  /** Largest value, inclusive. */
  readonly max: number;
  /** What happens to whom goes beyond it, with the refusal's reason where there is one. */
  readonly beyond: string;
}

/** One limit. */
export interface LimitSpec {
  readonly unit: LimitUnit;
  readonly default: number;
  /** What it bounds, in one line. */
  readonly what: string;
  /** Why it is there, and what to think of when it is changed. */
  readonly why: string;
  /** Without a range only tests and benchmarks change it. */
  readonly range?: LimitRange;
}

/** The limits of a server. */
export const limitSpecs = {
  maxEventBytes: {
    unit: "bytes",
    default: 1 * MiB,
    what: "one encoded event, and one run's result",
    why: "An event is held in memory whole by everybody who handles it. Many gRPC clients receive at most 4 MiB in one message unless told otherwise: from 3.9 MiB on, they have to be.",
    range: {
      min: 1 * KiB,
      max: 16 * MiB,
      beyond: "`TOO_LARGE` for the run; the SDK's sender drops the event before it gets a number",
    },
  },
  maxAppendBytes: {
    unit: "bytes",
    default: 4 * MiB,
    what: "the encoded events of one append",
    why: "It is committed as a whole. At least 1 KiB more than max-event-bytes: the run and the framing count as well.",
    range: { min: 2 * KiB, max: 64 * MiB, beyond: "`TOO_LARGE` for the run" },
  },
  maxMessageBytes: {
    unit: "bytes",
    default: 8 * MiB,
    what: "one message on the wire",
    why: "It is read into memory before it can be looked at. At least twice max-append-bytes: small events take almost as much again for their framing, and an append over its own limit is to be told so.",
    range: { min: 64 * KiB, max: 128 * MiB, beyond: "`TOO_LARGE` for the call" },
  },
  maxUnackedEvents: {
    unit: "count",
    default: 100_000,
    what: "events of one run that may await acknowledgement",
    why: "Bounds what a producer has to keep for sending it again.",
    range: { min: 1, max: 10_000_000, beyond: "the stream is not read until events are durable" },
  },
  maxPendingBytesPerStream: {
    unit: "bytes",
    default: 16 * MiB,
    what: "bytes of one Ingest stream that may await their commit",
    why: "Times the number of streams, this is what a slow database can cost in memory.",
    range: {
      min: 64 * KiB,
      max: 1 * GiB,
      beyond: "the stream is not read until some are durable",
    },
  },
  maxPendingFramesPerStream: {
    unit: "count",
    default: 4_096,
    what: "frames of one Ingest stream that may await an answer",
    why: "The same bound for many small frames, and for producers that do not read their answers.",
    range: { min: 1, max: 100_000, beyond: "the stream is not read until some are answered" },
  },
  maxOpenRunsPerStream: {
    unit: "count",
    default: 10_000,
    what: "runs that one Ingest stream may hold open",
    why: "Each costs memory for as long as the stream lives; runs that have ended make room.",
    range: { min: 1, max: 1_000_000, beyond: "`QUOTA` for the run; open another stream" },
  },
  maxSubscriptionsPerCall: {
    unit: "count",
    default: 10_000,
    what: "subscriptions on one Watch call",
    why: "Each costs some kilobytes for as long as the call lives; those that have ended make room.",
    range: { min: 1, max: 1_000_000, beyond: "`QUOTA` for the subscription; make another call" },
  },
  maxLabels: {
    unit: "count",
    default: 32,
    what: "labels of one run",
    why: "Each is a row of an index. The contract allows 32, a server fewer.",
    range: { min: 0, max: 32, beyond: "`INVALID_FIELD` for the run" },
  },
  memoryBytes: {
    unit: "bytes",
    default: 512 * MiB,
    what: "memory that clients can make the process hold",
    why: "A quarter each is for messages that have not arrived whole and for appends that await their commit, an eighth for answers that are not read, a sixteenth each for pages and for subscriptions; the rest is for whichever needs more, and for the tail until then. Node itself, SQLite's caches (128 MiB) and the garbage of a busy process come on top: give the process twice as much and 256 MiB.",
    range: {
      min: 4 * MiB,
      max: 1024 * GiB,
      beyond:
        "appends wait, pages are read again later, and `OVERLOADED` for windows, subscriptions, messages that take long, and streams that are not read",
    },
  },
  tailBytes: {
    unit: "bytes",
    default: 64 * MiB,
    what: "memory for the newest records, of all namespaces together",
    why: "Subscribers that are up to date are served from it and the others from the journal, so it buys speed only. It gives way where memory-bytes are needed for something else, of which it takes a quarter at most, and keeps a 32nd.",
    range: { min: 0, max: 64 * GiB, beyond: "the oldest are read from the journal" },
  },
  progressIntervalMs: {
    unit: "milliseconds",
    default: 15 * second,
    what: "silence on a stream until Progress, or a Heartbeat, is sent",
    why: "Proxies cut streams that are silent for too long, many after a minute.",
    range: { min: 1 * second, max: 1 * hour, beyond: "a Progress frame or a Heartbeat is sent" },
  },
  defaultLeaseMs: {
    unit: "milliseconds",
    default: 1 * minute,
    what: "lease of runs whose spec has none",
    why: "A run that has no producer for so long is lost: long enough to reconnect in, short enough for those who wait for the run. Runs that wait in a queue, or whose producer sends a window now and then, give a longer lease themselves.",
    range: { min: 1 * second, max: 30 * 24 * hour, beyond: "the run becomes LOST" },
  },
  messageTimeoutMs: {
    unit: "milliseconds",
    default: 30 * second,
    what: "time that one message may take to arrive once it has begun",
    why: "A client that announces a message and never sends it would hold its memory for ever.",
    range: { min: 1 * second, max: 10 * minute, beyond: "the call ends with DEADLINE_EXCEEDED" },
  },
  maxConnectionAgeMs: {
    unit: "milliseconds",
    default: 1 * hour,
    what: "age, about, at which an HTTP/2 connection is asked to go",
    why: "Long streams would otherwise stay for ever on the node that they first reached. Clients reconnect and lose nothing; ages differ by a tenth, so that they do not all do it at once.",
    range: {
      min: 10 * second,
      max: 14 * 24 * hour,
      beyond: "`GoAway`, then the connection closes",
    },
  },
  maxConnections: {
    unit: "count",
    default: 10_000,
    what: "connections that are open at once",
    why: "Each costs a file descriptor and some tens of KiB before anybody has asked anything. Below the process's limit of descriptors, which the journal needs too. A connection carries 10,000 streams, so a client needs one.",
    range: { min: 10, max: 1_000_000, beyond: "HTTP's 503, then the connection closes" },
  },
  maxCommitBytes: {
    unit: "bytes",
    default: 4 * MiB,
    what: "events in one transaction",
    why: "Bounds its memory and its duration.",
  },
  maxCommitOps: {
    unit: "count",
    default: 4_096,
    what: "operations in one transaction",
    why: "Bounds its duration.",
  },
  pageRecords: {
    unit: "count",
    default: 256,
    what: "records that one page of a subscription reads",
    why: "Bounds the time of a query.",
  },
  pageBytes: {
    unit: "bytes",
    default: 1 * MiB,
    what: "bytes that one page of a subscription reads, if it holds two records or more",
    why: "Bounds the memory of a subscriber that does not read.",
  },
  frameBytes: {
    unit: "bytes",
    default: 256 * KiB,
    what: "one frame to a subscriber, unless one record alone is larger",
    why: "Larger frames gain nothing. Records bound what a client must be able to receive.",
  },
  readBytes: {
    unit: "bytes",
    default: 3 * MiB,
    what: "events in one answer of ReadEvents, and runs in one of ListRuns, unless one alone is larger",
    why: "gRPC clients take messages of 4 MiB unless told otherwise, and an answer is a little more than what is in it.",
  },
  readPages: {
    unit: "count",
    default: 16,
    what: "pages of the journal that one call of ReadEvents looks through, of 256 KiB each or 2,048 records of unwanted types",
    why: "Bounds the work for a filter that hardly matches anything.",
  },
  retentionIntervalMs: {
    unit: "milliseconds",
    default: 10 * second,
    what: "time between looks for trees whose retention is over",
    why: "A look costs a query per namespace that has a retention.",
  },
  clockSettleMs: {
    unit: "milliseconds",
    default: 1 * minute,
    what: "time for which a jump of the clock has to stay before record_time follows it",
    why: "A clock that is set wrong is mostly set right within seconds; until then time goes on as it did before the jump.",
  },
  retentionPauseMs: {
    unit: "milliseconds",
    default: 1 * hour,
    what: "pause of retention after a jump of the clock",
    why: "What is deleted by a wrong clock does not come back. Nothing else waits for it.",
  },
  unfinishedIntervalMs: {
    unit: "milliseconds",
    default: 5 * second,
    what: "time between looks for what was begun and not finished, and for runs of nodes that are gone",
    why: "Deletions and requests to stop that the database failed, or whose node died, go on so late. A look costs a few queries that mostly find nothing.",
  },
  pollIntervalMs: {
    unit: "milliseconds",
    default: 100,
    what: "time between looks where nobody wakes",
    why: "Behind a pooler nodes cannot wake each other: they look for each other's records so often, and this is how late their subscribers are. A look is one short query, whatever the number of subscribers. Where wake-ups arrive, one look in ten is made all the same.",
    range: { min: 10, max: 1 * minute, beyond: "subscribers are told of the records" },
  },
  nodeTimeoutMs: {
    unit: "milliseconds",
    default: 10 * second,
    what: "silence after which a node is dead",
    why: "To the others it is, and runs that it had get their whole lease to come back to another node. Shorter than a pause of the machine, and nodes that live are taken for dead.",
    range: { min: 1 * second, max: 10 * minute, beyond: "another node looks after its runs" },
  },
  databaseConnections: {
    unit: "count",
    default: 8,
    what: "connections for commits, and for reads",
    why: "To PostgreSQL; a commit or a page holds one while it lasts, so this bounds how many namespaces commit, and how many pages are read, at once. Each node needs twice as many and one more.",
    range: { min: 1, max: 1_000, beyond: "commits and reads wait for each other" },
  },
  databaseWaitMs: {
    unit: "milliseconds",
    default: 30 * second,
    what: "time to wait for an absent database",
    why: "A restart or a failover of the database is then a pause to producers and subscribers, and no error. All tries of a read or a transaction together, waiting for locks included, take so long, and lock-timeout at least.",
    range: {
      min: 0,
      max: 10 * minute,
      beyond: "calls end with `JOURNAL_UNAVAILABLE`; clients come back",
    },
  },
  statementTimeoutMs: {
    unit: "milliseconds",
    default: 30 * second,
    what: "time that one statement may take on PostgreSQL",
    why: "Every statement is bounded by its page, so one that takes longer waits for something that does not come. The server ends it, reads too; database-wait bounds it where that is shorter.",
  },
  lockTimeoutMs: {
    unit: "milliseconds",
    default: 5 * second,
    what: "time that one transaction may wait for the database's lock, and that PostgreSQL waits for a client that has it and does not go on",
    why: "Another process that holds it is to become an error, not a silence. A node that was suspended or cut off while it had a namespace's lock keeps others from the namespace for so long after its statement.",
  },
} as const satisfies Readonly<Record<string, LimitSpec>>;

/** The name of a limit in code. */
export type LimitName = keyof typeof limitSpecs;

/** What one server accepts and holds. Passed in, so that tests can shrink it. */
export type Limits = { readonly [Name in LimitName]: number };

/** The defaults of a server. */
export const defaultLimits: Limits = Object.fromEntries(
  Object.entries(limitSpecs).map(([name, spec]) => [name, spec.default]),
) as Limits;

/** Bytes by which maxAppendBytes is above maxEventBytes: an Append holds more than its event. */
export const appendRoomBytes = 1 * KiB;
/** Bytes of a namespace's name. It stands in metrics and on command lines. */
export const maxNamespaceBytes = 63;
/** Bytes of a run id: a UUID, or a path-like name of the producer's. */
export const maxRunIdBytes = 128;
/** Bytes of a producer's name for itself: a UUID, with room for other schemes. */
export const maxProducerIdBytes = 128;
/** Bytes of Event.type, as the contract says. */
export const maxTypeBytes = 128;
/** Bytes of a media type. */
export const maxContentTypeBytes = 128;
/** Event.attributes, as the contract says. */
export const maxAttributes = 16;
/** Bytes of an attribute's value: tracestate may take 512. */
export const maxAttributeValueBytes = 1 * KiB;
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
/** Runs of which the forks in one filter inherit events, over forks of forks: each costs a look-up. */
export const maxInheritedRuns = 1_000;
/** EventFilter.event_types, as the contract says. */
export const maxFilterTypes = 32;
/** Runs or events in one page of a list, as the contract says. */
export const maxPageSize = 1_000;
/** Runs or events in one page of a list where the caller does not say. */
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
/**
 * Events of one Append, or one window. Each is a few objects in memory however
 * small it is; beyond some hundreds to an append nothing is gained.
 */
export const maxAppendEvents = 16_384;
/**
 * Events of one Append up to which the refusal is the run's alone; with more the
 * message is not decoded.
 */
export const maxScannedEvents = 65_536;
/** Items of any other list or map in one message up to which it is decoded and may be told which limit is its own. */
export const maxListItems = 8_192;
/** Fields of one message besides its lists, repeated and unknown ones included: it has a dozen. */
export const maxPlainFields = 64;
/**
 * Values of one message in JSON: numbers, texts, objects, lists. Each costs far more than its
 * bytes: so many of them take about a tenth of a second. A window of 4,000 events has fewer.
 */
export const maxJsonValues = 20_000;
/** Objects and lists inside each other in one message in JSON: the contract nests them six deep. */
export const maxJsonDepth = 32;
/** ListRunsRequest.states: there are five. */
export const maxListedStates = 32;
/**
 * Bytes that an answer may take besides the event, or the result, that is in it:
 * the spec of its run, ids and framing. An answer is of 4 MiB at most, or of this
 * and max-event-bytes where that is more.
 */
export const responseRoomBytes = 64 * KiB;
