/** What ends a subscriber's stream before it ends by itself: its client, the server's way out, or its token. */
import { Code, ConnectError } from "@connectrpc/connect";
import type { RefusedError } from "../refusal.ts";
import { callerOf } from "./auth/caller.ts";
import type { Draining } from "./draining.ts";
import type { StreamCall } from "./http/grpc-handler.ts";
import { drainingOf, type ServiceContext } from "./service-context.ts";

/** One stream's end; close it with the stream. */
export class StreamEnding {
  readonly #abort = new AbortController();
  readonly #draining: Draining;
  readonly #call: StreamCall;
  readonly #onEnd = () => this.#abort.abort();
  readonly #notDraining: () => void;
  readonly #notExpiring: () => void;
  #expiry: RefusedError | undefined;

  constructor(context: ServiceContext, call: StreamCall) {
    this.#call = call;
    this.#draining = drainingOf(context, call);
    call.signal.addEventListener("abort", this.#onEnd);
    this.#notDraining = this.#draining.onStart(this.#onEnd);
    this.#notExpiring = callerOf(call).onEnd((error) => {
      this.#expiry = error;
      this.#onEnd();
    });
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

  /** Stops listening for the end. */
  close(): void {
    this.#call.signal.removeEventListener("abort", this.#onEnd);
    this.#notDraining();
    this.#notExpiring();
  }
}
