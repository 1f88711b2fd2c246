/**
 * A stream of a caller: counted in its quota, and ended before it ends by itself by its client,
 * the server's way out, or its token.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Usage } from "../quotas.ts";
import type { RefusedError } from "../refusal.ts";
import { callerOf } from "./auth/caller.ts";
import type { Draining } from "./draining.ts";
import { toConnectError } from "./errors.ts";
import type { StreamCall } from "./http/grpc-handler.ts";
import { drainingOf, type ServiceContext } from "./service-context.ts";

/** A stream that is counted. */
export interface CountedStream {
  /** What its caller's identity uses; undefined where nobody counts. */
  readonly usage: Usage | undefined;
  /** Counts it no longer; to be called once. */
  readonly end: () => void;
}

/**
 * Counts a stream in its caller's quota.
 *
 * @throws ConnectError where the identity has too many
 */
export function countStream(
  { onUnexpected }: Pick<ServiceContext, "onUnexpected">,
  call: Pick<StreamCall, "values">,
): CountedStream {
  const { usage } = callerOf(call);
  try {
    usage?.take("streams");
  } catch (error) {
    throw toConnectError(error, onUnexpected);
  }
  return { usage, end: () => usage?.give("streams") };
}

/** One subscriber's stream; close it where it ends. */
export class StreamEnding {
  readonly #counted: CountedStream;
  readonly #abort = new AbortController();
  readonly #draining: Draining;
  readonly #call: StreamCall;
  readonly #onEnd = () => this.#abort.abort();
  readonly #notDraining: () => void;
  readonly #notExpiring: () => void;
  #expiry: RefusedError | undefined;

  /** @throws ConnectError where the caller's identity has too many streams */
  constructor(context: ServiceContext, call: StreamCall) {
    this.#counted = countStream(context, call);
    this.#call = call;
    this.#draining = drainingOf(context, call);
    call.signal.addEventListener("abort", this.#onEnd);
    this.#notDraining = this.#draining.onStart(this.#onEnd);
    this.#notExpiring = callerOf(call).onEnd((error) => {
      this.#expiry = error;
      this.#onEnd();
    });
  }

  /** What the caller's identity uses. */
  get usage(): Usage | undefined {
    return this.#counted.usage;
  }

  /** Aborts at the end. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Whether the server ended the stream. */
  get isDraining(): boolean {
    return this.#draining.started && this.#abort.signal.aborted && this.#expiry === undefined;
  }

  /**
   * Called where a stream's frames have come to an end: an OK would say that they
   * ended by themselves.
   *
   * @throws ConnectError where its client disconnected, or its deadline passed
   * @throws RefusedError token_expired
   */
  throwIfAborted(): void {
    if (this.#expiry !== undefined) throw this.#expiry;
    const { signal } = this.#call;
    if (signal.aborted) throw ConnectError.from(signal.reason, Code.Canceled);
  }

  /** Stops listening for the end, and counting. */
  close(): void {
    this.#call.signal.removeEventListener("abort", this.#onEnd);
    this.#notDraining();
    this.#notExpiring();
    this.#counted.end();
  }
}
