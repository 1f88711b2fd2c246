/**
 * What a history holds: everything that clients sent, were answered and received, every
 * fault, and what was seen of the servers, one JSON line each, in the order in which it
 * happened. The checker needs nothing else.
 *
 * Invariant: what is sent is written before it is sent, what is received when it is received.
 */

/** One record as a subscriber received it. */
export interface SeenRecord {
  readonly seq: number;
  readonly run: string;
  /** 0 for facts and signals. */
  readonly runSeq: number;
  readonly kind: "event" | "signal" | "started" | "waiting" | "finished" | "resumed";
  /** Of an event or a signal: its type. */
  readonly type?: string;
  /** Of an event or a signal's event: CRC-32 of its encoded bytes; of an event: the producer that its data names. */
  readonly crc?: number;
  readonly by?: string;
  /** Of a start: where the run belongs. */
  readonly parent?: string;
  readonly fork?: { readonly run: string; readonly runSeq: number };
  /** Of an end: RunState's name without its prefix, and the output. */
  readonly state?: string;
  readonly output?: string;
  readonly lastRunSeq?: number;
  /** Of an end: the failure's code, if there is one. */
  readonly failure?: string;
  /** Of a signal: its id, and its place among the run's. */
  readonly id?: string;
  readonly signalSeq?: number;
  /** The run's position in its signals: of a wait and an end, and of an event that moved it. */
  readonly handled?: number;
  /** Of a wait: whether it has a deadline. */
  readonly hasDeadline?: boolean;
  /** record_time, milliseconds since 1970. */
  readonly timeMs?: number;
}

/** What a subscriber asks for. */
export interface SeenFilter {
  readonly scope:
    | { readonly t: "all" }
    | { readonly t: "runs"; readonly runs: readonly string[]; readonly inherited?: boolean }
    | {
        readonly t: "ancestor";
        readonly run: string;
        readonly includesSelf: boolean;
        /** 0 is any depth. */
        readonly maxDepth: number;
      };
  /** Exact, or ending in "*"; none is all. */
  readonly types: readonly string[];
  /** None is all. */
  readonly kinds?: readonly ("event" | "signal" | "lifecycle")[];
}

/** The names of the reasons without REASON_; "" where an answer carried no ErrorDetail. */
type ReasonName = string;

/** An entry; `at` is milliseconds since the history began. */
export type Entry = { readonly at: number } & (
  | {
      readonly t: "begin";
      readonly seed: number;
      readonly nemeses: readonly string[];
      readonly journal: string;
    }
  | {
      readonly t: "fault";
      readonly name: string;
      readonly phase: "begin" | "end";
      readonly detail?: string;
    }
  /** OpenRun, CreateRun, ForkRun or a first window is sent. */
  | {
      readonly t: "opening";
      readonly run: string;
      readonly by: string;
      readonly node: string;
      readonly attempt: number;
    }
  | {
      readonly t: "opened";
      readonly run: string;
      readonly by: string;
      readonly attempt: number;
      readonly epoch: number;
      readonly lastRunSeq: number;
      /** The run's position in its signals, where its producer receives them. */
      readonly handled?: number;
    }
  /** Events from..to are about to be sent, for the first time or again. */
  | {
      readonly t: "sent";
      readonly run: string;
      readonly by: string;
      readonly from: number;
      /** Less than `from` where signals are reported as handled without an event. */
      readonly to: number;
      /** The signals up to this one are handled, together with these events. */
      readonly handled?: number;
    }
  | {
      readonly t: "acked";
      readonly run: string;
      readonly by: string;
      readonly runSeq: number;
      readonly seq: number;
      readonly handled?: number;
    }
  /** The producer received a signal, on the stream of this attempt. */
  | {
      readonly t: "inbox";
      readonly run: string;
      readonly by: string;
      readonly attempt: number;
      readonly seq: number;
      readonly signalSeq: number;
      readonly id: string;
      readonly crc: number;
    }
  /** WaitRun is sent, only to wait if every signal is handled; and its answer that the run waits. */
  | {
      readonly t: "waits";
      readonly run: string;
      readonly by: string;
      readonly code: string;
      readonly handled: number;
    }
  | { readonly t: "waiting"; readonly run: string; readonly by: string; readonly code: string }
  /** SignalRun is sent, for the first time or again; and its answer. */
  | {
      readonly t: "signalling";
      readonly run: string;
      readonly by: string;
      readonly node: string;
      readonly id: string;
      readonly crc: number;
    }
  | {
      readonly t: "signalled";
      readonly run: string;
      readonly by: string;
      readonly id: string;
      readonly crc: number;
      readonly seq: number;
      readonly signalSeq: number;
    }
  /** CancelRun was sent, and answered. */
  | { readonly t: "cancelling"; readonly run: string; readonly by: string }
  | { readonly t: "cancelled"; readonly run: string; readonly by: string }
  | {
      readonly t: "finishing";
      readonly run: string;
      readonly by: string;
      readonly lastRunSeq: number;
      readonly state: string;
      readonly output: string;
      /** Only if every signal is handled. */
      readonly isConditional?: boolean;
      readonly handled?: number;
    }
  | {
      readonly t: "ended";
      readonly run: string;
      readonly by: string;
      readonly state: string;
      readonly output: string;
    }
  /** An answer that refuses: a frame's, or a call's. `code` is gRPC's number. */
  | {
      readonly t: "refused";
      readonly run?: string;
      readonly by: string;
      readonly reason: ReasonName;
      readonly code?: number;
      readonly message: string;
      /** Nobody on the server's side said it: the connection broke, or the client gave up. */
      readonly isLocal?: boolean;
    }
  | {
      readonly t: "subscribing";
      readonly by: string;
      readonly node: string;
      readonly after: number;
      readonly filter: SeenFilter;
      readonly progressMs: number;
    }
  | { readonly t: "subscribed"; readonly by: string; readonly journalId: string }
  | { readonly t: "records"; readonly by: string; readonly records: readonly SeenRecord[] }
  | { readonly t: "progress"; readonly by: string; readonly seq: number }
  | {
      readonly t: "unsubscribed";
      readonly by: string;
      readonly reason: ReasonName;
      readonly code: number;
      readonly message: string;
      readonly isLocal: boolean;
    }
  /** The whole journal, read in one piece once the load was over; pages of ReadEvents are another reader of it. */
  | {
      readonly t: "journal";
      readonly reader: string;
      readonly node: string;
      readonly records: readonly SeenRecord[];
    }
  | {
      readonly t: "run";
      readonly node: string;
      readonly run: string;
      readonly state: string;
      readonly lastRunSeq: number;
      readonly handled?: number;
    }
  | {
      readonly t: "recovered";
      readonly fault: string;
      readonly node: string;
      readonly tookMs: number;
    }
  | {
      readonly t: "memory";
      readonly node: string;
      readonly rssBytes: number;
      readonly maxBytes: number;
    }
  | { readonly t: "log"; readonly node: string; readonly line: string }
  | {
      readonly t: "exit";
      readonly node: string;
      readonly status: string;
      readonly isWanted: boolean;
    }
  /** Something that a nemesis, or the rig, found by itself. */
  | { readonly t: "found"; readonly promise: string; readonly what: string }
);

/** An entry before it has its time. */
export type NewEntry = Entry extends infer One
  ? One extends Entry
    ? Omit<One, "at">
    : never
  : never;
