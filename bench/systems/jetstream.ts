/** NATS JetStream with file storage, by its own client. A stream of the bench is a subject of one JetStream stream. */
import { execFileSync } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DeliverPolicy, jetstream, jetstreamManager, StorageType } from "@nats-io/jetstream";
import { connect, type NatsConnection } from "@nats-io/transport-node";
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

const program = "nats-server";
const install = "go install github.com/nats-io/nats-server/v2@latest";
const name = "BENCH";
const subjectOf = (stream: string) => `bench.${stream}`;
/** Messages without an acknowledgement at once; more, and the server refuses some. */
const maxUnanswered = 5_000;
const maxMessages = 5_000;
/** Milliseconds for an acknowledgement: with an fsync for each, a queue of them builds up. */
const answerTimeoutMs = 120_000;

class JetStreamClient implements SystemClient {
  readonly #connection: NatsConnection;
  readonly #jetstream: ReturnType<typeof jetstream>;

  constructor(connection: NatsConnection) {
    this.#connection = connection;
    this.#jetstream = jetstream(connection, { timeout: answerTimeoutMs });
  }

  async write(
    stream: string,
    payloads: Payloads,
    { first, count }: { first: number; count: number },
  ): Promise<void> {
    const subject = subjectOf(stream);
    const underWay: Promise<unknown>[] = [];
    let at = first;
    const batch = 500;
    while (at < first + count) {
      const added: Promise<unknown>[] = [];
      for (let i = 0; i < batch && at < first + count; i++, at++) {
        added.push(this.#jetstream.publish(subject, payloads.of(at)));
      }
      underWay.push(Promise.all(added));
      if (underWay.length >= maxUnanswered / batch) await underWay.shift();
    }
    await Promise.all(underWay);
  }

  writeEach(streams: readonly string[], payloads: Payloads, emission: Emission): Promise<void> {
    return writeEachBy((...one) => this.writeOne(...one), streams, payloads, emission);
  }

  async read(stream: string, count: number, onEvent: OnEvent): Promise<void> {
    const consumer = await this.#jetstream.consumers.get(name, {
      filter_subjects: subjectOf(stream),
    });
    const messages = await consumer.consume({ max_messages: maxMessages });
    let left = count;
    for await (const message of messages) {
      onEvent(numberOf(message.data));
      if (--left === 0) break;
    }
    await messages.close();
  }

  async follow(stream: string, onEvent: OnEvent): Promise<Following> {
    const consumer = await this.#jetstream.consumers.get(name, {
      filter_subjects: subjectOf(stream),
      deliver_policy: DeliverPolicy.New,
    });
    const { promise: failed, reject } = Promise.withResolvers<never>();
    failed.catch(() => undefined);
    const messages = await consumer.consume({
      max_messages: maxMessages,
      callback(message) {
        try {
          onEvent(numberOf(message.data));
        } catch (error) {
          reject(error);
        }
      },
    });
    return {
      failed,
      stop: async () => {
        await messages.close();
      },
    };
  }

  async writeOne(stream: string, payload: Buffer): Promise<void> {
    await this.#jetstream.publish(subjectOf(stream), payload);
  }

  async close(): Promise<void> {
    await this.#connection.close();
  }
}

/** Why this machine cannot run it, in one line: no server, or one that is older than `since`. */
function missingFor(since: Version): string | undefined {
  const path = findProgram(program);
  if (path === undefined) return `${program} is not on PATH: ${install}`;
  const output = execFileSync(path, ["--version"], { encoding: "utf8" });
  const [, major = 0, minor = 0] = /v(\d+)\.(\d+)/.exec(output)?.map(Number) ?? [];
  if (major > since.major || (major === since.major && minor >= since.minor)) return undefined;
  return `${program} is ${major}.${minor}, this needs ${since.major}.${since.minor}: ${install}`;
}

interface Version {
  readonly major: number;
  readonly minor: number;
}

/** JetStream with file storage, from this version of the server on. */
const jetstreamSince: Version = { major: 2, minor: 2 };
/** The first version that takes `sync_interval: always`. */
const syncAlwaysSince: Version = { major: 2, minor: 10 };

function jetstreamWith(title: string, durability: string, sync: string, since: Version): System {
  return {
    name: title,
    durability,
    missing: () => missingFor(since),
    async start(directory) {
      const port = await freePort();
      const config = join(directory, "nats.conf");
      await writeFile(
        config,
        `host: 127.0.0.1
port: ${port}
log_file: ${JSON.stringify(join(directory, "nats.log"))}
jetstream {
  store_dir: ${JSON.stringify(directory)}
  ${sync}
}
`,
      );
      const child = await startListening(findProgram(program)!, ["-c", config], port);
      return { url: `127.0.0.1:${port}`, pid: child.pid, stop: () => end(child) };
    },
    async connect(url) {
      const connection = await connect({ servers: url });
      const manager = await jetstreamManager(connection);
      const subjects = [subjectOf(">")];
      // Where it is there with the same settings, this changes nothing.
      await manager.streams.add({ name, subjects, storage: StorageType.File });
      return new JetStreamClient(connection);
    },
  };
}

/** JetStream as it comes: what is acknowledged is on the disk up to two minutes later. */
export const jetstreamDefault = jetstreamWith(
  "JetStream",
  "in the page cache when acknowledged, fsync every two minutes (the default)",
  "",
  jetstreamSince,
);

/** JetStream at runlog's durability. */
export const jetstreamSynced = jetstreamWith(
  "JetStream, synced",
  "fsync before each acknowledgement (sync_interval: always)",
  "sync_interval: always",
  syncAlwaysSince,
);
