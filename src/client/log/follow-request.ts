/** What to follow, in words, as the request that means the same. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type EventFilterSchema, RecordKind } from "../../../gen/runlog/v1/record_pb.js";
import { StopPolicy } from "../../../gen/runlog/v1/subscribe_pb.js";
import type { FollowRequest } from "../follow-position.ts";

/** Whose records. */
export type Scope =
  /** A run; with `inherited` and for a fork, also the events that it inherits. */
  | { readonly run: string; readonly inherited?: boolean | undefined }
  /** Up to 100 runs; for more, follow a family. */
  | { readonly runs: readonly string[]; readonly inherited?: boolean | undefined }
  /**
   * A run and all that descend from it, those that start later too: at most `maxDepth` levels
   * below it, and without the run itself where `self` is false.
   */
  | {
      readonly family: string;
      readonly self?: boolean | undefined;
      readonly maxDepth?: number | undefined;
    }
  /** The whole namespace. */
  | { readonly all: true };

/** A place in a journal, to go on from: plain data, to be saved as JSON. */
export interface Cursor {
  readonly seq: number;
  /** Of the journal that the seq belongs to: with another one, following ends with JOURNAL_CHANGED. */
  readonly journalId: string;
}

/** What a record can be: a lifecycle record is every one that is no event and no signal. */
export type KindName = "event" | "signal" | "lifecycle";

/** Where to begin: one of the three at most. Default: with the first record. */
export interface Start {
  /** After this place: a saved cursor, or a seq. */
  readonly after?: Cursor | number | undefined;
  /** With the newest records that match, up to 1,000; 0: with what comes from now on. */
  readonly last?: number | undefined;
  /** With the records of this time or later, by the server's clock. */
  readonly since?: Date | undefined;
}

/** What to choose of a scope, from where, and until when. */
export interface Selection extends Start {
  /** Only records of these kinds. Default: all. */
  readonly kinds?: readonly KindName[] | undefined;
  /** Only events and signals of these types: exact, or a prefix that ends in "*". Default: all. */
  readonly types?: readonly string[] | undefined;
  /**
   * When to end: "caught-up", with what is durable at the start; "finished", when the runs have
   * ended (not with `all`). Default: never.
   */
  readonly until?: "caught-up" | "finished" | undefined;
  /** Wait for runs that do not exist yet, instead of RUN_NOT_FOUND. Default: no. */
  readonly allowMissing?: boolean | undefined;
  /** Milliseconds between moves of the cursor while nothing matches: 1,000 at least. Default: 15,000. */
  readonly progressIntervalMs?: number | undefined;
}

const kindsByName = {
  event: RecordKind.EVENT,
  signal: RecordKind.SIGNAL,
  lifecycle: RecordKind.LIFECYCLE,
};

const stops = { "caught-up": StopPolicy.CAUGHT_UP, finished: StopPolicy.FINISHED };

/** @throws TypeError where there is more than one start, or what none can be */
export function requestOf(namespace: string, scope: Scope, selection: Selection): FollowRequest {
  const { kinds = [], types = [], until, allowMissing = false, progressIntervalMs } = selection;
  return {
    namespace,
    filter: {
      scope: scopeOf(scope),
      kinds: kinds.map((kind) => kindsByName[kind]),
      eventTypes: [...types],
    },
    allowMissing,
    ...startOf(selection),
    ...(until !== undefined && { stop: stops[until] }),
    ...(progressIntervalMs !== undefined && { progressIntervalMs }),
  };
}

function scopeOf(scope: Scope): NonNullable<MessageInitShape<typeof EventFilterSchema>["scope"]> {
  if ("all" in scope) return { case: "all", value: {} };
  if ("family" in scope) {
    const { family, self = true, maxDepth = 0 } = scope;
    return { case: "ancestor", value: { ancestorRunId: family, includeSelf: self, maxDepth } };
  }
  const runIds = "run" in scope ? [scope.run] : [...scope.runs];
  return { case: "runIds", value: { runIds, includeInherited: scope.inherited ?? false } };
}

function startOf({ after, last, since }: Start): Pick<FollowRequest, "after" | "journalId"> {
  const given = [after, last, since].filter((start) => start !== undefined);
  if (given.length > 1) throw new TypeError("follow: give one of `after`, `last` and `since`");
  if (last !== undefined) return { after: { lastCount: last } };
  if (since !== undefined) return { after: { fromTime: since } };
  if (after === undefined) return {};
  const { seq, journalId = "" } = typeof after === "number" ? { seq: after } : after;
  if (!Number.isSafeInteger(seq) || seq < 0) {
    throw new TypeError(`follow: after: ${seq} is no place in a journal`);
  }
  return { after: BigInt(seq), journalId };
}
