/**
 * Every limit of the server that an operator or a caller meets, with its unit and its
 * reason. A constant that only bounds an implementation stands beside the code that it
 * bounds.
 *
 * Invariant: a server's own limits stand once, in `limitSpecs`. The type, the defaults, the
 * settings of an operator, `serve --help` and docs/limits.md derive from it. The constants
 * below it belong to the contract; nobody sets them.
 */

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;
const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;

/** What a limit's number counts. */
export type LimitUnit = "bytes" | "milliseconds" | "count";

/** The values that an operator may set. */
export interface LimitRange {
  /** Smallest value, inclusive. */
  readonly min: number;
  /** Largest value, inclusive. */
  readonly max: number;
}

/** One limit. */
export interface LimitSpec {
  readonly unit: LimitUnit;
  readonly default: number;
  /** The thing that it bounds, in at most 58 characters: a line of `serve --help`. */
  readonly what: string;
  /** Its reason, and what to consider before changing it. */
  readonly why: string;
  /** The server's reaction beyond it, with the refusal's reason if there is one. */
  readonly beyond: string;
  /** Without a range only tests and benchmarks change it. */
  readonly range?: LimitRange;
}

/** The limits of a server. */
export const limitSpecs = {
  maxEventBytes: {
    unit: "bytes",
    default: 1 * MiB,
    what: "one encoded event, or one run's result",
    why: "The server and every client hold an event in memory as a whole. Many gRPC clients receive at most 4 MiB in one message: above 3.9 MiB, raise their limit.",
    beyond: "`TOO_LARGE` for the run; the SDK's sender drops the event before it gets a number",
    range: { min: 1 * KiB, max: 16 * MiB },
  },
  maxAppendBytes: {
    unit: "bytes",
    default: 4 * MiB,
    what: "the encoded events of one append",
    why: "The server commits an append as a whole. At least 1 KiB above max-event-bytes, because the run id and the framing count too.",
    beyond: "`TOO_LARGE` for the run",
    range: { min: 2 * KiB, max: 64 * MiB },
  },
  maxMessageBytes: {
    unit: "bytes",
    default: 8 * MiB,
    what: "one message on the wire",
    why: "The server reads a message into memory before it can examine it. At least twice max-append-bytes: the framing of small events is almost as large as the events, and an append over its own limit should get that limit in its refusal.",
    beyond: "`TOO_LARGE` for the call",
    range: { min: 64 * KiB, max: 128 * MiB },
  },
  maxUnackedEvents: {
    unit: "count",
    default: 100_000,
    what: "unacknowledged events of one run",
    why: "Bounds the events that a producer must keep for sending them again.",
    beyond: "the server stops reading the stream until events are durable",
    range: { min: 1, max: 10_000_000 },
  },
  maxPendingBytesPerStream: {
    unit: "bytes",
    default: 16 * MiB,
    what: "bytes of one Ingest stream that await their commit",
    why: "A slow database can cost this much memory for each stream.",
    beyond: "the server stops reading the stream until some are durable",
    range: { min: 64 * KiB, max: 1 * GiB },
  },
  maxPendingFramesPerStream: {
    unit: "count",
    default: 4_096,
    what: "frames of one Ingest stream that await an answer",
    why: "The same bound for many small frames, and for producers that do not read their answers.",
    beyond: "the server stops reading the stream until it has answered some",
    range: { min: 1, max: 100_000 },
  },
  maxOpenRunsPerStream: {
    unit: "count",
    default: 10_000,
    what: "open runs on one Ingest stream",
    why: "Each takes memory while the stream lives; ended runs make room.",
    beyond: "`QUOTA` for the run; open another stream",
    range: { min: 1, max: 1_000_000 },
  },
  maxSubscriptionsPerCall: {
    unit: "count",
    default: 10_000,
    what: "subscriptions on one Watch or SubscribeMany call",
    why: "Each takes some kilobytes while the call lives; ended ones make room.",
    beyond: "`QUOTA` for the subscription, or for SubscribeMany; make another call",
    range: { min: 1, max: 1_000_000 },
  },
  maxPendingSignals: {
    unit: "count",
    default: 1_000,
    what: "signals of one run that may await handling",
    why: "Bounds the input of a run whose producer does not handle it.",
    beyond: "`QUOTA` for the signal; the producer has to handle some first",
    range: { min: 1, max: 1_000_000 },
  },
  maxLabels: {
    unit: "count",
    default: 32,
    what: "labels of one run",
    why: "Each is a row of an index. The contract allows 32; a server may allow fewer.",
    beyond: "`INVALID_FIELD` for the run",
    range: { min: 0, max: 32 },
  },
  memoryBytes: {
    unit: "bytes",
    default: 512 * MiB,
    what: "memory that clients can make the process hold",
    why: "A quarter each is for messages that have not arrived whole and for appends that await their commit, an eighth for responses that clients have not read, a sixteenth each for pages and for subscriptions. Any class may use the rest, and the tail has it until then. Node itself, SQLite's caches (128 MiB) and the garbage of a busy process come on top: give the process twice this and 256 MiB.",
    beyond:
      "appends wait, pages are read again later, and `OVERLOADED` for windows, subscriptions, messages that arrive slowly, and streams that are not read",
    range: { min: 4 * MiB, max: 1024 * GiB },
  },
  tailBytes: {
    unit: "bytes",
    default: 64 * MiB,
    what: "memory for the newest records of all namespaces",
    why: "Subscribers that are up to date read from the tail, others from the journal, so it only buys speed. It takes at most a quarter of memory-bytes, shrinks when other classes need memory, and keeps a 32nd.",
    beyond: "the oldest records are read from the journal",
    range: { min: 0, max: 64 * GiB },
  },
  progressIntervalMs: {
    unit: "milliseconds",
    default: 15 * second,
    what: "silence on a stream until a Progress or a Heartbeat",
    why: "Proxies cut streams that are silent for too long, many after a minute.",
    beyond: "the server sends a Progress frame or a Heartbeat",
    range: { min: 1 * second, max: 1 * hour },
  },
  defaultLeaseMs: {
    unit: "milliseconds",
    default: 1 * minute,
    what: "lease of a run whose spec sets none",
    why: "A run without a producer for this long becomes LOST. Long enough to reconnect, short enough for those who wait for the run. Set a longer lease in the spec of runs that wait in a queue, or whose producer sends a window now and then.",
    beyond: "the run becomes LOST",
    range: { min: 1 * second, max: 30 * 24 * hour },
  },
  messageTimeoutMs: {
    unit: "milliseconds",
    default: 30 * second,
    what: "time for one message to arrive once it has begun",
    why: "A client that announces a message and never sends it would otherwise hold memory for ever.",
    beyond: "the call ends with DEADLINE_EXCEEDED",
    range: { min: 1 * second, max: 10 * minute },
  },
  maxConnectionAgeMs: {
    unit: "milliseconds",
    default: 1 * hour,
    what: "approximate age at which an HTTP/2 connection ends",
    why: "Otherwise a long stream would stay for ever on the node that it first reached. Clients reconnect and lose nothing. Ages vary by a tenth, so that clients do not all reconnect at once.",
    beyond: "the server sends `GoAway`, then closes the connection",
    range: { min: 10 * second, max: 14 * 24 * hour },
  },
  maxConnections: {
    unit: "count",
    default: 10_000,
    what: "open connections",
    why: "Each takes a file descriptor and some tens of KiB, even without a call. Stay below the process's limit of descriptors, which the journal needs too. A client needs one connection, since each carries 10,000 streams.",
    beyond: "HTTP's 503, over TLS nothing, then the server closes the connection",
    range: { min: 10, max: 1_000_000 },
  },
  firstBytesTimeoutMs: {
    unit: "milliseconds",
    default: 10 * second,
    what: "time for the handshake of TLS, and for the first bytes",
    why: "A client that connects and says nothing would otherwise hold a connection for ever, and one that says it byte by byte almost as long.",
    beyond: "the server closes the connection",
  },
  maxCommitBytes: {
    unit: "bytes",
    default: 4 * MiB,
    what: "events in one transaction",
    why: "Bounds the memory and the duration of a transaction.",
    beyond: "the rest goes into the next transaction",
  },
  maxCommitOps: {
    unit: "count",
    default: 4_096,
    what: "operations in one transaction",
    why: "Bounds the duration of a transaction.",
    beyond: "the rest goes into the next transaction",
  },
  pageRecords: {
    unit: "count",
    default: 256,
    what: "records that one page of a subscription reads",
    why: "Bounds the time of a query.",
    beyond: "the rest goes into the next page",
  },
  pageBytes: {
    unit: "bytes",
    default: 1 * MiB,
    what: "bytes that a page of two or more records reads",
    why: "Bounds the memory of a subscriber that does not read.",
    beyond: "the rest goes into the next page",
  },
  frameBytes: {
    unit: "bytes",
    default: 256 * KiB,
    what: "one frame to a subscriber, unless one record is larger",
    why: "Larger frames gain nothing. The receive limit of a client depends on the largest record.",
    beyond: "the rest goes into the next frame",
  },
  readBytes: {
    unit: "bytes",
    default: 3 * MiB,
    what: "one answer of ReadEvents or ListRuns",
    why: "gRPC clients receive 4 MiB by default, and an answer is a little larger than its events or runs. One event or run that is larger comes alone.",
    beyond: "the page ends, and the next call continues; last_count finds fewer",
  },
  readPages: {
    unit: "count",
    default: 16,
    what: "pages of the journal that one ReadEvents call, or a start with last_count, examines",
    why: "Bounds the work for a filter that matches hardly anything. A page has 256 KiB, or 2,048 records of other types.",
    beyond: "the page ends; the next call continues",
  },
  retentionIntervalMs: {
    unit: "milliseconds",
    default: 10 * second,
    what: "time between checks for trees whose retention is over",
    why: "A check costs a query for each namespace that has a retention.",
    beyond: "the server checks again",
  },
  idleNamespaceMs: {
    unit: "milliseconds",
    default: 5 * minute,
    what: "time between checks for namespaces that nobody uses",
    why: "What the server caches of a namespace that had no commit and no subscriber since the check before, it drops.",
    beyond: "the next one who uses the namespace reads the journal",
  },
  clockSettleMs: {
    unit: "milliseconds",
    default: 1 * minute,
    what: "time that a jump must last before record_time follows it",
    why: "A clock that was set wrong is mostly corrected within seconds. Until then record_time continues as before the jump.",
    beyond: "record_time follows the clock",
  },
  retentionPauseMs: {
    unit: "milliseconds",
    default: 1 * hour,
    what: "pause of retention after a clock jump",
    why: "A tree that a wrong clock deletes does not come back. Nothing else waits for retention.",
    beyond: "retention resumes",
  },
  unfinishedIntervalMs: {
    unit: "milliseconds",
    default: 5 * second,
    what: "time between checks for unfinished work",
    why: "Deletions and requests to stop that a failed database or a dead node interrupted resume this late, and so does the adoption of runs of dead nodes. A check costs a few queries that mostly find nothing.",
    beyond: "the server checks again",
  },
  pollIntervalMs: {
    unit: "milliseconds",
    default: 100,
    what: "time between polls while no wake-ups arrive",
    why: "Behind a pooler nodes cannot wake each other. They poll for each other's records this often, so subscribers get those this late. A poll is one short query, whatever the number of subscribers. While wake-ups arrive, a node still makes one poll in ten.",
    beyond: "subscribers get the records",
    range: { min: 10, max: 1 * minute },
  },
  nodeTimeoutMs: {
    unit: "milliseconds",
    default: 10 * second,
    what: "silence after which a node counts as dead",
    why: "The runs of a dead node get their whole lease, to continue at another node. If the value is shorter than a pause of the machine, live nodes count as dead.",
    beyond: "another node adopts its runs",
    range: { min: 1 * second, max: 10 * minute },
  },
  databaseConnections: {
    unit: "count",
    default: 8,
    what: "connections for commits, and as many for reads",
    why: "To PostgreSQL. A commit or a page holds one while it lasts, so this bounds how many namespaces commit, and how many pages are read, at once. Each node needs twice this and one more.",
    beyond: "commits and reads wait for each other",
    range: { min: 1, max: 1_000 },
  },
  databaseWaitMs: {
    unit: "milliseconds",
    default: 30 * second,
    what: "time to wait for an absent database",
    why: "A restart or a failover of the database is a pause to producers and subscribers, not an error. All tries of a read or a transaction, with their waits for locks, take this long together, but at least lock-timeout.",
    beyond: "calls end with `JOURNAL_UNAVAILABLE`; clients retry",
    range: { min: 0, max: 10 * minute },
  },
  statementTimeoutMs: {
    unit: "milliseconds",
    default: 30 * second,
    what: "time for one statement on PostgreSQL",
    why: "Every statement is bounded by its page, so one that takes longer waits for something that will not come. PostgreSQL ends it, reads too. If database-wait is shorter, it applies instead.",
    beyond: "`JOURNAL_UNAVAILABLE`",
  },
  lockTimeoutMs: {
    unit: "milliseconds",
    default: 5 * second,
    what: "time to wait for a lock, or for a client that holds one",
    why: "If another process keeps a lock, callers get an error instead of silence. A node that is suspended or cut off with a namespace's lock blocks the namespace this long after its statement, then PostgreSQL ends its transaction.",
    beyond: "`JOURNAL_UNAVAILABLE`",
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

/** Bytes by which maxAppendBytes exceeds maxEventBytes: an Append holds more than its event. */
export const appendRoomBytes = 1 * KiB;
/** Bytes of a namespace's name, which stands in metrics and on command lines. */
export const maxNamespaceBytes = 63;
/** Bytes of a run id: a UUID, or a path-like name that the producer chooses. */
export const maxRunIdBytes = 128;
/** Bytes of a producer_id: a UUID, with room for other schemes. */
export const maxProducerIdBytes = 128;
/** Bytes of a signal_id; fixed by the contract. */
export const maxSignalIdBytes = 128;
/** Bytes of Wait.code; fixed by the contract. */
export const maxWaitCodeBytes = 128;
/** Bytes of Event.type; fixed by the contract. */
export const maxTypeBytes = 128;
/** Bytes of a media type. */
export const maxContentTypeBytes = 128;
/** Event.attributes; fixed by the contract. */
export const maxAttributes = 16;
/** Bytes of an attribute's value: tracestate alone may take 512. */
export const maxAttributeValueBytes = 1 * KiB;
/** Bytes of the key of a label or an attribute; fixed by the contract. */
export const maxKeyBytes = 63;
/** Bytes of a label's value; fixed by the contract. */
export const maxLabelValueBytes = 256;
/** Bytes of each other string of a RunSpec. */
export const maxSpecStringBytes = 256;
/** Edges between a root and a run. The closure holds a row per ancestor. */
export const maxDepth = 64;
/** RunIdsScope.run_ids; fixed by the contract. */
export const maxFilterRunIds = 100;
/** Runs whose events the forks in one filter inherit, over forks of forks: each costs a look-up. */
export const maxInheritedRuns = 1_000;
/** SubscribeRequest.last_count; fixed by the contract. */
export const maxLastCount = 1_000;
/** EventFilter.event_types; fixed by the contract. */
export const maxFilterTypes = 32;
/** Runs or events in one page of a list; fixed by the contract. */
export const maxPageSize = 1_000;
/** Runs or events in one page of a list if the caller sets no page_size. */
export const defaultPageSize = 100;
/** RunResult.suppressed. */
export const maxSuppressed = 100;
/** Milliseconds; a shorter lease lapses during a garbage collection. */
export const minLeaseMs = 1_000;
/** Milliseconds; 30 days. */
export const maxLeaseMs = 30 * 24 * 3_600_000;
/** Milliseconds; a tree that is kept for less was not worth writing. */
export const minRetentionMs = 1_000;
/** Milliseconds; 100 years: to keep trees longer, set no retention. */
export const maxRetentionMs = 100 * 365 * 24 * 3_600_000;
/** Bytes of the reason in a request to stop, which producers receive. */
export const maxReasonBytes = 1 * KiB;
/** Milliseconds; more frequent Progress would be load without news. */
export const minProgressIntervalMs = 1_000;
/**
 * Bytes of events in one record. A larger Append becomes several records, so
 * that the number of bytes bounds a page's memory.
 */
export const maxRecordBytes = 256 * KiB;
/**
 * Events of one Append, or one window. Each takes a few objects in memory however small it
 * is, and more than some hundreds to an append gain nothing.
 */
export const maxAppendEvents = 16_384;
/**
 * Events of one Append up to which the refusal concerns the run alone. With more, the
 * server does not decode the message.
 */
export const maxScannedEvents = 65_536;
/** Items of any other list or map in one message up to which the server decodes it, so that the refusal can name the list's own limit. */
export const maxListItems = 8_192;
/**
 * Items of all lists and maps of one message together, events aside: a list of messages with
 * lists in them could hold millions. A thousand subscriptions of 60 runs each have fewer.
 */
export const maxMessageItems = 65_536;
/** Fields of one message besides its lists, repeated and unknown ones included: it has a dozen. */
export const maxPlainFields = 64;
/**
 * Values of one message in JSON: numbers, strings, objects, lists. Each costs far more than
 * its bytes: this many take about a tenth of a second. A window of 4,000 events has fewer.
 */
export const maxJsonValues = 20_000;
/** Nested objects and lists of one message in JSON: the contract nests them six deep. */
export const maxJsonDepth = 32;
/** ListRunsRequest.states: there are five. */
export const maxListedStates = 32;
/**
 * Bytes of an answer besides its event or result: the spec of its run, ids and framing. An
 * answer has at most 4 MiB, or max-event-bytes plus this if that is more.
 */
export const responseRoomBytes = 64 * KiB;
/** Bytes of a bearer token: a JWT with its grants. All of a request's headers may take 16 KiB. */
export const maxTokenBytes = 12 * KiB;
/** Grants of one token, or of one entry of the access file: each may cost a look-up. */
export const maxGrants = 32;
/** Seconds that a minted token lasts at most, unless configured: a thief has it that long. */
export const defaultMintedLifetimeS = 3_600;
/** Seconds that can be configured: a month. */
export const maxMintedLifetimeS = 30 * 24 * 3_600;
/** Bytes of the name that a minted token gives its holder. */
export const maxHolderNameBytes = 128;
/** Namespaces that WhoAmI lists. */
export const maxReadableNamespaces = 1_000;
/** Calls that one HTTP/2 connection carries at once. Node's default of 100 silently stalls the 101st subscriber. */
export const maxStreamsPerConnection = 10_000;
/** Health watches that one HTTP/2 connection carries: nobody needs a token for them, and each takes 40 KiB. */
export const maxHealthWatchesPerConnection = 100;
/** Milliseconds between the server's HTTP/2 pings. */
export const pingIntervalMs = 30_000;
/** Milliseconds for the answer to a ping; then the server closes the connection. */
export const pingTimeoutMs = 10_000;
