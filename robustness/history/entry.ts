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
  /** 0 for facts. */
  readonly runSeq: number;
  readonly kind: "event" | "started" | "finished" | "resumed";
  /** Of an event: its type. */
  readonly type?: string;
  /** Of an event: CRC-32 of its encoded bytes, and the producer that its data names. */
  readonly crc?: number;
  readonly by?: string;
  /** Of a start: where the run belongs. */
  readonly parent?: string;
  readonly fork?: { readonly run: string; readonly runSeq: number };
  /** Of an end: RunState's name without its prefix, and the output. */
  readonly state?: string;
  readonly output?: string;
  readonly lastRunSeq?: number;
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
    }
  /** Events from..to are about to be sent, for the first time or again. */
  | {
      readonly t: "sent";
      readonly run: string;
      readonly by: string;
      readonly from: number;
      readonly to: number;
    }
  | {
      readonly t: "acked";
      readonly run: string;
      readonly by: string;
      readonly runSeq: number;
      readonly seq: number;
    }
  | {
      readonly t: "finishing";
      readonly run: string;
      readonly by: string;
      readonly lastRunSeq: number;
      readonly state: string;
      readonly output: string;
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
