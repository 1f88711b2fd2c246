/**
 * How the commands reach their server.
 *
 * Invariant: the user hears of a server that does not answer once per
 * outage. The first connection is bounded by --connect-timeout; once it stood,
 * a command goes on trying until it works or the user ends it.
 */

import type { Transport } from "@connectrpc/connect";
import { type BackoffOptions, backoffMs, defaultBackoff, sleep } from "../client/backoff.ts";
import {
  isRetryable,
  type OpenRunOptions,
  openRun,
  type RunSender,
  type SenderState,
} from "../client/index.ts";
import { connectTo, type NodeConnection } from "../client/node/index.ts";
import { startTimer } from "../timers.ts";
import { type CredentialPaths, freshTls, freshToken } from "./credential-files.ts";
import { diagnose } from "./diagnose.ts";
import { CommandError, reasonOf, shortReason } from "./failure.ts";
import { notice } from "./output.ts";

/** At an interactive prompt nobody waits ten seconds for the next attempt. */
const backoff: BackoffOptions = { ...defaultBackoff, capMs: 3_000 };

/** Milliseconds that one unary call may take. */
const unaryTimeoutMs = 10_000;

/** Flags that every client command has. */
export interface ServerFlags extends CredentialPaths {
  readonly server: string;
  readonly token?: string;
  /** By lower-case name. */
  readonly header?: Readonly<Record<string, string>>;
  /** Milliseconds for the first connection. */
  readonly connectTimeout: number;
}

/** Flags of the commands that work in one namespace. */
export interface ConnectionFlags extends ServerFlags {
  readonly namespace: string;
}

/** Connects as the flags say. Throws CommandError for files that cannot be used. */
export function connectBy(flags: ServerFlags): NodeConnection {
  const { server, header } = flags;
  const tokenNow = freshToken(flags);
  // Asked for each call, also for the one after a token's end: no token is kept that a file replaced.
  const headers = () => {
    const token = flags.token ?? tokenNow();
    return { ...(token !== undefined && { authorization: `Bearer ${token}` }), ...header };
  };
  return connectTo(server, { headers, tls: freshTls(flags) });
}

/** The first connection did not come about. */
export class CannotReachError extends CommandError {
  readonly #flags: ServerFlags;
  readonly #refused: boolean;

  constructor(flags: ServerFlags, last: unknown) {
    const refused = isRefusal(last);
    const what = refused ? `${flags.server} did not serve this` : `cannot reach ${flags.server}`;
    const why = last === undefined ? "" : ` (${shortReason(last)})`;
    super(`${what} within ${flags.connectTimeout / 1000} s${why}`);
    this.name = "CannotReachError";
    this.#flags = flags;
    this.#refused = refused;
  }

  /** What to do, after a look at what listens there; undefined where the message says it. */
  async advice(): Promise<string | undefined> {
    if (this.#refused) return undefined;
    const servers = this.#flags.server.split(",").map((one) => one.trim());
    const tls = freshTls(this.#flags)();
    const found = await Promise.all(servers.map((one) => diagnose(one, tls)));
    const [advice] = found.filter((one) => one !== undefined);
    return advice ?? "is `runlog serve` running there?";
  }
}

/** Whether a runlog server answered, and gave a reason not to serve the call. */
function isRefusal(error: unknown): boolean {
  return (reasonOf(error) ?? "UNSPECIFIED") !== "UNSPECIFIED";
}

/** Says when the server is lost and when it is back, once each. */
export class Outage {
  readonly #server: string;
  #connectedBefore = false;
  #told = false;
  #lastError: unknown;

  constructor(server: string) {
    this.#server = server;
  }

  /** Why the last attempt failed. */
  get lastError(): unknown {
    return this.#lastError;
  }

  lost(error: unknown): void {
    this.#lastError = error;
    if (!this.#told) {
      this.#told = true;
      notice(`${this.#outageText(error)} (${shortReason(error)}), retrying…`);
    }
  }

  #outageText(error: unknown): string {
    if (this.#connectedBefore) return `lost the connection to ${this.#server}`;
    return isRefusal(error)
      ? `${this.#server} does not serve this now`
      : `cannot reach ${this.#server}`;
  }

  connected(): void {
    if (this.#told) {
      notice(`connected to ${this.#server}${this.#connectedBefore ? " again" : ""}`);
    }
    this.#told = false;
    this.#connectedBefore = true;
  }
}

/** Aborts a first connection that takes too long. */
export class FirstConnection {
  readonly #controller = new AbortController();
  readonly #timer: ReturnType<typeof setTimeout>;

  constructor(flags: ServerFlags, outage: Outage) {
    this.#timer = startTimer(
      () => this.#controller.abort(new CannotReachError(flags, outage.lastError)),
      flags.connectTimeout,
    );
  }

  /** Aborts with a CommandError. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The connection stands, or nobody waits for it any more. */
  settled(): void {
    clearTimeout(this.#timer);
  }
}

/** Opens a run and waits until the server has answered. Throws CommandError, RunlogError. */
export async function openRunOnServer(
  transport: Transport,
  flags: ConnectionFlags,
  options: Pick<OpenRunOptions, "runId" | "spec" | "onDrop" | "receiveSignals"> & {
    /** Told of the run's id before the server is asked. */
    readonly onRunId: (runId: string) => void;
    readonly onFailed: (error: Error) => void;
  },
): Promise<RunSender> {
  const outage = new Outage(flags.server);
  const first = new FirstConnection(flags, outage);
  const onState = (state: SenderState) => {
    switch (state.t) {
      case "waiting":
        outage.lost(state.error);
        break;
      case "open":
        outage.connected();
        break;
      case "failed":
        options.onFailed(state.error);
        break;
      default:
        break;
    }
  };
  const sender = openRun(transport, {
    ...options,
    namespace: flags.namespace,
    // --connect-timeout bounds the first contact.
    limits: { backoff, firstContactTimeoutMs: Number.POSITIVE_INFINITY },
    signal: first.signal,
    onState,
  });
  options.onRunId(sender.runId);
  try {
    await sender.opened;
  } finally {
    first.settled();
  }
  return sender;
}

/** Makes a unary call, again and again within --connect-timeout. */
export async function callServer<T>(
  flags: ServerFlags,
  call: (options: { readonly signal: AbortSignal; readonly timeoutMs: number }) => Promise<T>,
): Promise<T> {
  const outage = new Outage(flags.server);
  const first = new FirstConnection(flags, outage);
  try {
    for (let attempt = 1; ; attempt++) {
      try {
        return await call({ signal: first.signal, timeoutMs: unaryTimeoutMs });
      } catch (error) {
        first.signal.throwIfAborted();
        if (!isRetryable(error)) {
          throw error;
        }
        outage.lost(error);
        await sleep(backoffMs(attempt, backoff, Math.random), first.signal);
      }
    }
  } finally {
    first.settled();
  }
}
