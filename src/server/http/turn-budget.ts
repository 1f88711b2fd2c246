/**
 * Bounds what one connection makes the server do in one turn of the event loop.
 *
 * libuv reads a connection up to 32 times in a row, 64 KiB each: in frames or
 * chunks of one byte that is 200,000 pieces before anybody else has a turn, and
 * tens of thousands of calls. So pieces and calls are counted. A connection that
 * has had its share is not read again before the others have had theirs; the
 * calls that it has begun beyond its share wait, and are never served where their
 * client resets them meanwhile.
 */
import type { IncomingMessage } from "node:http";
import type { Http2Session, ServerHttp2Stream } from "node:http2";
import type { Socket } from "node:net";

/** Pieces of bodies that a connection may hand over in one turn: 8 MiB in frames of the usual size. */
const maxPieces = 512;

/** Calls that a connection may begin in one turn: a few milliseconds of work. */
const maxCalls = 32;

/** Node's own handle of a connection: HTTP/2 and HTTP/1.1 read it past the socket, whose pause does nothing then. */
interface ReadingHandle {
  readStop(): unknown;
  readStart(): unknown;
}

/** A call that a connection begins. */
export interface Call {
  /** Never throws. */
  readonly serve: () => void;
  /** Whether its client has given it up. */
  readonly isGone: () => boolean;
}

/** The share of one connection. */
export class TurnBudget {
  readonly #socket: Socket & { readonly _handle?: ReadingHandle | null };
  #pieces = 0;
  #calls = 0;
  #isRenewing = false;
  #isStopped = false;
  /** Calls beyond the share, in the order in which they came. */
  #waiting: Call[] = [];

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Counts a piece; the connection is not read again in this turn once there are too many. */
  spend(): void {
    this.#pieces++;
    if (this.#pieces === maxPieces) this.#stop();
    this.#renewLater();
  }

  /**
   * Serves a call now, or in a later turn where the connection has begun too many in
   * this one.
   *
   * @returns whether it was served
   */
  begin(call: Call): boolean {
    this.#renewLater();
    if (this.#calls < maxCalls && this.#waiting.length === 0) {
      this.#calls++;
      call.serve();
      return true;
    }
    this.#waiting.push(call);
    this.#stop();
    return false;
  }

  #stop(): void {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#socket._handle?.readStop();
  }

  #renewLater(): void {
    if (this.#isRenewing) return;
    this.#isRenewing = true;
    setImmediate(this.#renew);
  }

  readonly #renew = (): void => {
    this.#isRenewing = false;
    this.#pieces = 0;
    // Those that are gone count as well: to make them has cost Node about as much.
    const due = this.#waiting.splice(0, maxCalls);
    this.#calls = due.length;
    for (const call of due) {
      if (!call.isGone()) call.serve();
    }
    if (this.#waiting.length > 0) {
      this.#renewLater();
    } else if (this.#isStopped) {
      this.#isStopped = false;
      this.#socket._handle?.readStart();
    }
  };
}

const budgets = new WeakMap<Socket | Http2Session, TurnBudget>();

/** Gives a connection its share; `session` is what HTTP/2 made of it. */
export function setTurnBudget(socket: Socket, session?: Http2Session): void {
  budgets.set(session ?? socket, new TurnBudget(socket));
}

/** The share of the connection that a body comes on. */
export function turnBudgetOf(source: ServerHttp2Stream | IncomingMessage): TurnBudget | undefined {
  const connection = "session" in source ? source.session : source.socket;
  return connection === undefined ? undefined : budgets.get(connection);
}
