/** Durable Streams: its reference server on files, and its own client with the idempotent producer. */
import { fileURLToPath } from "node:url";
import { DurableStream, IdempotentProducer, stream as readStream } from "@durable-streams/client";
import type { Payloads } from "../payloads.ts";
import { end, startNode } from "./processes.ts";
import {
  type Emission,
  type Following,
  type OnEvent,
  type System,
  type SystemClient,
  writeEachBy,
} from "./system.ts";

const serverFile = fileURLToPath(new URL("./durable-streams-server.ts", import.meta.url));
const contentType = "application/json";
/** Events that the producer is given before it is waited for: its memory has no other bound. */
const maxUnanswered = 20_000;

/** What a payload is to a client of JSON. */
interface Item {
  readonly n: number;
}

class DurableStreamsClient implements SystemClient {
  readonly #url: string;
  readonly #streams = new Map<string, Promise<DurableStream>>();

  constructor(url: string) {
    this.#url = url;
  }

  #handle(stream: string): Promise<DurableStream> {
    let handle = this.#streams.get(stream);
    if (handle === undefined) {
      handle = DurableStream.create({ url: `${this.#url}/${stream}`, contentType });
      this.#streams.set(stream, handle);
    }
    return handle;
  }

  async write(
    stream: string,
    payloads: Payloads,
    { first, count }: { first: number; count: number },
  ): Promise<void> {
    const { promise: failed, reject } = Promise.withResolvers<never>();
    const producer = new IdempotentProducer(await this.#handle(stream), `bench-${first}`, {
      autoClaim: true,
      onError: reject,
    });
    const writing = (async () => {
      for (let at = first; at < first + count; at++) {
        producer.append(payloads.textOf(at));
        if ((at - first) % maxUnanswered === maxUnanswered - 1) await producer.flush();
      }
      await producer.flush();
      await producer.detach();
    })();
    await Promise.race([writing, failed]);
  }

  writeEach(streams: readonly string[], payloads: Payloads, emission: Emission): Promise<void> {
    return writeEachBy((...one) => this.writeOne(...one), streams, payloads, emission);
  }

  async read(stream: string, count: number, onEvent: OnEvent): Promise<void> {
    const response = await readStream<Item>({ url: `${this.#url}/${stream}`, live: false });
    const { promise: done, resolve, reject } = Promise.withResolvers<void>();
    let left = count;
    response.subscribeJson<Item>((batch) => {
      try {
        for (const { n } of batch.items) {
          left--;
          onEvent(n);
        }
        if (left === 0) resolve();
      } catch (error) {
        reject(error);
      }
    });
    await done;
  }

  async follow(stream: string, onEvent: OnEvent): Promise<Following> {
    const handle = await this.#handle(stream);
    const head = await handle.head();
    const offset = head.exists ? head.offset : undefined;
    const { promise: failed, reject } = Promise.withResolvers<never>();
    failed.catch(() => undefined);
    const response = await readStream<Item>({
      url: `${this.#url}/${stream}`,
      live: "sse",
      ...(offset === undefined ? {} : { offset }),
    });
    const unsubscribe = response.subscribeJson<Item>((batch) => {
      try {
        for (const { n } of batch.items) onEvent(n);
      } catch (error) {
        reject(error);
      }
    });
    return {
      failed,
      stop: () => {
        unsubscribe();
        response.cancel();
        return Promise.resolve();
      },
    };
  }

  async writeOne(stream: string, payload: Buffer): Promise<void> {
    await (await this.#handle(stream)).append(payload.toString("latin1"));
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** Durable Streams on files. */
export const durableStreams: System = {
  name: "Durable Streams",
  durability: "fdatasync before each acknowledgement, shared by what waits",
  async start(directory) {
    const { child, url } = await startNode(serverFile, [directory]);
    return { url, pid: child.pid, stop: () => end(child) };
  },
  connect: (url) => Promise.resolve(new DurableStreamsClient(url)),
};
