/** Redis Streams, by the `redis` client. An entry is an event; entries go out as fast as the socket takes them. */
import { createClient, RESP_TYPES } from "redis";
import { numberOf, type Payloads } from "../payloads.ts";
import { end, findProgram, freePort, startListening } from "./processes.ts";
import {
  type Emission,
  type Following,
  type OnEvent,
  type System,
  type SystemClient,
  writeEachBy,
} from "./system.ts";

const program = "redis-server";
/** Entries of one XREAD. */
const readCount = 1_000;
/** Events without an answer at once, so that the client's memory is bounded. */
const maxUnanswered = 10_000;
/** The field of an entry that has the payload. */
const field = "d";

const typeMapping = { [RESP_TYPES.BLOB_STRING]: Buffer } as const;

function connectTo(url: string) {
  return createClient({ url, commandOptions: { typeMapping } });
}

type Connection = ReturnType<typeof connectTo>;

/** Takes entries from a stream; resolves with the id of the last one. */
function take(reply: unknown, onEvent: OnEvent): string | undefined {
  // Replies are maps of names to buffers, by the type mapping above.
  const streams = reply as { messages: { id: Buffer; message: Record<string, Buffer> }[] }[] | null;
  const messages = streams?.[0]?.messages ?? [];
  for (const { message } of messages) onEvent(numberOf(message[field]!));
  return messages.at(-1)?.id.toString();
}

class RedisClient implements SystemClient {
  readonly #url: string;
  readonly #connection: Connection;

  constructor(url: string, connection: Connection) {
    this.#url = url;
    this.#connection = connection;
  }

  async write(
    stream: string,
    payloads: Payloads,
    { first, count, perAppend }: { first: number; count: number; perAppend: number },
  ): Promise<void> {
    const underWay: Promise<unknown>[] = [];
    const most = Math.max(1, Math.floor(maxUnanswered / perAppend));
    for (let at = first; at < first + count; at += perAppend) {
      const size = Math.min(perAppend, first + count - at);
      const added: Promise<unknown>[] = [];
      for (let i = 0; i < size; i++) added.push(this.writeOne(stream, payloads.of(at + i)));
      underWay.push(Promise.all(added));
      if (underWay.length >= most) await underWay.shift();
    }
    await Promise.all(underWay);
  }

  writeEach(streams: readonly string[], payloads: Payloads, emission: Emission): Promise<void> {
    return writeEachBy((...one) => this.writeOne(...one), streams, payloads, emission);
  }

  async read(stream: string, count: number, onEvent: OnEvent): Promise<void> {
    let left = count;
    let id = "0";
    while (left > 0) {
      const reply = await this.#connection.xRead({ key: stream, id }, { COUNT: readCount });
      id = take(reply, (n) => {
        left--;
        onEvent(n);
      })!;
    }
  }

  async follow(stream: string, onEvent: OnEvent): Promise<Following> {
    const reader = connectTo(this.#url);
    reader.on("error", () => undefined);
    await reader.connect();
    const last = (await reader.xRevRange(stream, "+", "-", { COUNT: 1 })) as { id: Buffer }[];
    let id = last[0]?.id.toString() ?? "0";
    let isStopped = false;
    const reading = (async () => {
      while (!isStopped) {
        const reply = await reader.xRead({ key: stream, id }, { COUNT: readCount, BLOCK: 0 });
        id = take(reply, onEvent) ?? id;
      }
    })();
    const failed = reading.then(() => new Promise<never>(() => undefined));
    failed.catch(() => undefined);
    return {
      failed,
      stop: () => {
        isStopped = true;
        reader.destroy();
        return Promise.resolve();
      },
    };
  }

  async writeOne(stream: string, payload: Buffer): Promise<void> {
    await this.#connection.xAdd(stream, "*", { [field]: payload });
  }

  async close(): Promise<void> {
    await this.#connection.close();
  }
}

/** Redis as it has to run where no acknowledged event may be lost. */
export const redis: System = {
  name: "Redis Streams",
  durability: "fsync before each acknowledgement (appendfsync always), shared by what waits",
  missing: () =>
    findProgram(program) === undefined
      ? `${program} is not on PATH: apt-get install ${program}`
      : undefined,
  async start(directory) {
    const port = await freePort();
    const settings = {
      port,
      bind: "127.0.0.1",
      dir: directory,
      appendonly: "yes",
      appendfsync: "always",
      save: "",
      // A stream of a million events is written once more in the background otherwise.
      "auto-aof-rewrite-percentage": 0,
    };
    const args = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)]);
    const child = await startListening(findProgram(program)!, args, port);
    return { url: `redis://127.0.0.1:${port}`, pid: child.pid, stop: () => end(child) };
  },
  async connect(url) {
    const connection = connectTo(url);
    connection.on("error", () => undefined);
    await connection.connect();
    return new RedisClient(url, connection);
  },
};
