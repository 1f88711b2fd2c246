/**
 * Bounds what one connection makes the server do in one turn of the event loop.
 *
 * libuv reads a connection up to 32 times in a row, 64 KiB each: in frames or
 * chunks of one byte that is 200,000 pieces before anybody else has a turn. So
 * the pieces are counted, and a connection that has had its share is not read
 * again before the others have had theirs.
 */
import type { IncomingMessage } from "node:http";
import type { Http2Session, ServerHttp2Stream } from "node:http2";
import type { Socket } from "node:net";

/** Pieces of bodies that a connection may hand over in one turn: 8 MiB in frames of the usual size. */
const maxPieces = 512;

/** Node's own handle of a connection: HTTP/2 and HTTP/1.1 read it past the socket, whose pause does nothing then. */
interface ReadingHandle {
  readStop(): unknown;
  readStart(): unknown;
}

/** The share of one connection. */
export class TurnBudget {
  readonly #socket: Socket & { readonly _handle?: ReadingHandle | null };
  #pieces = 0;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Counts a piece; the connection is not read again in this turn once there are too many. */
  spend(): void {
    this.#pieces++;
    if (this.#pieces === 1) setImmediate(this.#renew);
    else if (this.#pieces === maxPieces) this.#socket._handle?.readStop();
  }

  readonly #renew = (): void => {
    const wasSpent = this.#pieces >= maxPieces;
    this.#pieces = 0;
    if (wasSpent) this.#socket._handle?.readStart();
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
