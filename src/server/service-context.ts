/** What every service works with, and how its errors leave it. */
import type { IncomingHttpHeaders } from "node:http";
import type { Http2Session } from "node:http2";
import type { DescMethod } from "@bufbuild/protobuf";
import {
  type ConnectError,
  type ContextValues,
  createContextKey,
  type HandlerContext,
} from "@connectrpc/connect";
import type { Tails } from "../delivery/tails.ts";
import type { Committer } from "../ingest/committer.ts";
import type { Journal } from "../journal/journal.ts";
import type { Limits } from "../limits.ts";
import type { Cancellations } from "../maintenance/cancellations.ts";
import type { Deletions } from "../maintenance/delete-tree.ts";
import type { JournalClock } from "../maintenance/journal-clock.ts";
import type { RetentionSettings } from "../maintenance/namespace-directory.ts";
import type { Retention } from "../maintenance/retention.ts";
import type { MemoryBudget } from "../memory-budget.ts";
import { type Caller, callerOf } from "./auth/caller.ts";
import type { Draining } from "./draining.ts";
import { type OnUnexpected, toConnectError } from "./errors.ts";
import type { Peer } from "./http/peer.ts";

/** The server's parts, made once. */
export interface ServiceContext {
  readonly journal: Journal;
  readonly committer: Committer;
  readonly tails: Tails;
  readonly memory: MemoryBudget;
  readonly cancellations: Cancellations;
  readonly deletions: Deletions;
  readonly retention: Retention;
  readonly retentionSettings: RetentionSettings;
  readonly clock: JournalClock;
  readonly limits: Limits;
  readonly draining: Draining;
  readonly onUnexpected: OnUnexpected;
}

/** The way out of the connection that a call came on; without it, the server's. */
export const connectionDraining = createContextKey<Draining | undefined>(undefined);

/** Why a call is not served; undefined where it is. At once where nothing has to be found out. */
export type Admission = ConnectError | undefined | Promise<ConnectError | undefined>;

/** Finds out who makes a call, and notes it in the call's values. Never throws. */
export type Admit = (
  method: DescMethod,
  headers: IncomingHttpHeaders,
  values: ContextValues,
  peer: Peer,
) => Admission;

/** What calls have in common, whoever handles them. */
export interface Handling {
  /** What the services know of a call besides its messages; HTTP/1.1 has no session. */
  readonly contextValues: (session: Http2Session | undefined) => ContextValues;
  /** Asked before anything of a call's messages is read. */
  readonly admit: Admit;
  /** Told about responses that could not be written though the client was there. */
  readonly onFailure: (method: string, error: unknown) => void;
}

/** What a call listens to in order to leave in time. */
export function drainingOf(
  context: ServiceContext,
  call: Pick<HandlerContext, "values">,
): Draining {
  return call.values.get(connectionDraining) ?? context.draining;
}

/**
 * Wraps a unary method: refusals become statuses. Its signal aborts once the caller has left;
 * the rights of the caller are to be asked for each namespace that the method touches.
 */
export function unary<Req, Res>(
  context: ServiceContext,
  method: (request: Req, signal: AbortSignal, caller: Caller) => Promise<Res>,
): (request: Req, call: Pick<HandlerContext, "signal" | "values">) => Promise<Res> {
  return async (request, call) => {
    try {
      return await method(request, call.signal, callerOf(call));
    } catch (error) {
      throw toConnectError(error, context.onUnexpected);
    }
  };
}
