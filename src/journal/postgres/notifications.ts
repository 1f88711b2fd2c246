import { randomUUID } from "node:crypto";
import type pg from "pg";
import type { Logger } from "pino";
import { startTimer } from "../../timers.ts";

/** Notifications to other nodes, and from them. */
export interface Notifications {
  /** Whether what others tell is heard; if not, look often. */
  readonly isConnected: boolean;
  /** Tells the others that something was committed in a namespace. */
  tell(namespace: string): void;
  /** Calls back with namespaces in which others committed; "lost" where some may have been missed. */
  listen(onNews: (news: readonly string[] | "lost") => void): void;
}

const channel = "runlog";
/** Milliseconds between two notifications of one node. */
const coalesceMs = 5;
/** Milliseconds until the connection is tried again, and until a silent one is given up. */
const reconnectMs = 1_000;
const verifyTimeoutMs = 5_000;
/** Milliseconds after which it is tried again where nothing is heard: a pooler may be in between. */
const deafRetryMs = 60_000;
/** Bytes of a notification: PostgreSQL takes less than 8,000. */
const maxPayloadBytes = 7_000;

/**
 * Wake-ups between the nodes of one journal, by LISTEN/NOTIFY on a connection of
 * its own. They say where to look and nothing else, and any of them may be lost:
 * whoever listens looks from time to time as well.
 *
 * A NOTIFY takes a lock that all transactions with a NOTIFY share until their
 * commit is on the disk, so there is none in the transactions that append: a
 * node sends at most one every few milliseconds, in a transaction that is not
 * waited for to be durable
 * (https://www.postgresql.org/docs/current/sql-notify.html).
 */
export class PostgresNotifications implements Notifications {
  readonly #connect: () => pg.Client;
  readonly #logger: Logger | undefined;
  /** Tells a node's own notifications from the others'. */
  readonly #self = randomUUID();
  #onNews: (news: readonly string[] | "lost") => void = () => undefined;
  #client: pg.Client | undefined;
  #isConnected = false;
  #isDeaf = false;
  #isClosed = false;
  #namespaces = new Set<string>();
  #flushing: NodeJS.Timeout | undefined;
  #flushedMs = 0;
  #retrying: NodeJS.Timeout | undefined;

  /** @param connect makes a client that is not connected yet */
  constructor(connect: () => pg.Client, logger?: Logger) {
    this.#connect = connect;
    this.#logger = logger;
  }

  get isConnected(): boolean {
    return this.#isConnected;
  }

  listen(onNews: (news: readonly string[] | "lost") => void): void {
    this.#onNews = onNews;
    void this.#open();
  }

  tell(namespace: string): void {
    this.#namespaces.add(namespace);
    this.#flushSoon();
  }

  /** Closes the connection. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#retrying);
    clearTimeout(this.#flushing);
    await this.#client?.end().catch(() => undefined);
  }

  async #open(): Promise<void> {
    const client = this.#connect();
    this.#client = client;
    let isOver = false;
    const over = (problem: string, afterMs: number) => {
      if (isOver) return;
      isOver = true;
      clearTimeout(deaf);
      this.#isConnected = false;
      if (!this.#isDeaf && !this.#isClosed) {
        this.#isDeaf = true;
        this.#logger?.warn({ problem }, "no wake-ups from other nodes: polling often instead");
      }
      this.#client = undefined;
      client.end().catch(() => undefined);
      if (this.#isClosed) return;
      this.#retrying = startTimer(() => void this.#open(), afterMs);
    };
    client.on("error", (error) => {
      over(error.message, reconnectMs);
    });
    client.on("end", () => {
      over("the connection has ended", reconnectMs);
    });
    const deaf = startTimer(() => {
      over("a notification did not come back, is there a pooler in between?", deafRetryMs);
    }, verifyTimeoutMs);
    client.on("notification", ({ payload = "" }) => {
      if (this.#hear(payload)) clearTimeout(deaf);
    });
    try {
      await client.connect();
      // Its own notification must come back: behind a pooler it does not.
      await client.query(`listen ${channel}`);
      await this.#notify(client, []);
    } catch (error) {
      over(error instanceof Error ? error.message : String(error), reconnectMs);
    }
  }

  /** Whether it was a node's. */
  #hear(payload: string): boolean {
    const told = parsePayload(payload);
    // Somebody else's: whoever may connect to the database may notify this channel.
    if (told === undefined) return false;
    const { self, namespaces } = told;
    if (!this.#isConnected) {
      this.#isConnected = true;
      if (this.#isDeaf) this.#logger?.info("other nodes are heard again");
      this.#isDeaf = false;
      // Notifications before this were missed.
      this.#onNews("lost");
    }
    if (self !== this.#self) this.#onNews(namespaces);
    return true;
  }

  #flushSoon(): void {
    this.#flushing ??= startTimer(
      () => {
        void this.#flush();
      },
      Math.max(0, this.#flushedMs + coalesceMs - performance.now()),
    );
  }

  async #flush(): Promise<void> {
    const namespaces = [...this.#namespaces];
    this.#namespaces = new Set();
    try {
      const client = this.#client;
      if (client === undefined || !this.#isConnected) return;
      for (const part of inPayloads(namespaces)) await this.#notify(client, part);
    } catch {
      // The connection tells of its error itself, and the others look anyway.
    } finally {
      this.#flushedMs = performance.now();
      this.#flushing = undefined;
      if (this.#namespaces.size > 0) this.#flushSoon();
    }
  }

  async #notify(client: pg.Client, namespaces: readonly string[]): Promise<void> {
    const payload = client.escapeLiteral(JSON.stringify({ self: this.#self, namespaces }));
    // LOCAL: whoever has this connection next, behind a pooler, waits for its commits.
    await client.query(
      `begin; set local synchronous_commit = off; select pg_notify('${channel}', ${payload}); commit`,
    );
  }
}

interface Payload {
  readonly self: string;
  readonly namespaces: readonly string[];
}

/** What a node has notified; undefined for what no node has. */
function parsePayload(text: string): Payload | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { self, namespaces } = value as Partial<Record<string, unknown>>;
  if (typeof self !== "string" || !Array.isArray(namespaces)) return undefined;
  if (!namespaces.every((name) => typeof name === "string")) return undefined;
  return { self, namespaces };
}

/** Names in parts that are short enough for one notification each. */
function inPayloads(names: readonly string[]): string[][] {
  const payloads: string[][] = [];
  let room = 0;
  for (const name of names) {
    // As JSON, with the comma; names are short.
    const bytes = JSON.stringify(name).length + 1;
    if (bytes > room) {
      payloads.push([]);
      room = maxPayloadBytes;
    }
    room -= bytes;
    payloads.at(-1)!.push(name);
  }
  return payloads;
}
