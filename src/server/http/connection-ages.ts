/**
 * Bounds the age of HTTP/2 connections. Without it the streams of a client stay
 * for ever on the node that they happened to reach first, and nodes that are
 * added later stay idle.
 */
import type { Http2Session, ServerHttp2Session } from "node:http2";
import { startTimer } from "../../timers.ts";
import type { Draining } from "../draining.ts";

/** By which part of it an age may differ, so that connections do not all go at once. */
const jitter = 0.1;

/** Milliseconds for the last answers of an old connection to be written. */
const cutAfterMs = 1_000;

/** The connections of a server, and the way out of each. */
export class ConnectionAges {
  readonly #whole: Draining;
  readonly #maxAgeMs: number;
  readonly #drainTimeoutMs: number;
  readonly #random: () => number;
  readonly #drainings = new WeakMap<ServerHttp2Session, Draining>();

  /**
   * @param whole the server's own way out: all connections take it
   * @param drainTimeoutMs milliseconds that the streams of an old connection may take to finish
   * @param random in [0, 1)
   */
  constructor(whole: Draining, maxAgeMs: number, drainTimeoutMs: number, random = Math.random) {
    this.#whole = whole;
    this.#maxAgeMs = maxAgeMs;
    this.#drainTimeoutMs = drainTimeoutMs;
    this.#random = random;
  }

  /**
   * Begins a connection's age; call the result once it has closed.
   *
   * @param mostMs milliseconds at which it ends in any case: its client's certificate is about to expire
   */
  add(session: ServerHttp2Session, mostMs = Number.POSITIVE_INFINITY): () => void {
    const { draining, leave } = this.#whole.part();
    this.#drainings.set(session, draining);
    const ageMs = Math.min(mostMs, this.#maxAgeMs * (1 + jitter * (2 * this.#random() - 1)));
    let timer = startTimer(() => {
      // Asks the streams to go elsewhere, and the client to open no more here.
      draining.start();
      session.close();
      timer = startTimer(() => {
        draining.end();
        // What has not ended by now, a health watch for one, is cut.
        timer = startTimer(() => session.destroy(), cutAfterMs);
      }, this.#drainTimeoutMs);
    }, ageMs);
    return () => {
      clearTimeout(timer);
      leave();
    };
  }

  /** The way out of a connection; HTTP/1.1 has no session and none of its own. */
  drainingOf(session: Http2Session | undefined): Draining | undefined {
    return session === undefined ? undefined : this.#drainings.get(session as ServerHttp2Session);
  }
}
