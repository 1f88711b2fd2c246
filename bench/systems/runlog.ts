/**
 * runlog, by @grpc/grpc-js: what a gRPC user in Node has. Messages are encoded
 * and decoded within the time. Many runs of one process are written by runlog's
 * own client.
 */
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Client, type ClientDuplexStream, credentials, Metadata } from "@grpc/grpc-js";
import {
  IngestRequestSchema,
  type IngestResponse,
  IngestResponseSchema,
} from "../../gen/runlog/v1/ingest_pb.js";
import { type RunSpecSchema, RunState } from "../../gen/runlog/v1/run_pb.js";
import {
  SubscribeRequestSchema,
  type SubscribeResponse,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { decodeSubscribeResponse, openRun, type RunSender } from "../../src/client/index.ts";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";
import { numberOf, type Payloads } from "../payloads.ts";
import { end, startNode } from "./processes.ts";
import {
  type Emission,
  type Following,
  nextEmission,
  type OnEvent,
  type System,
  type SystemClient,
  type SystemServer,
} from "./system.ts";

const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));

/** Starts a server on a journal, by its URL. */
export async function startRunlog(
  journal: string,
  nodeOptions: readonly string[] = [],
  flags: readonly string[] = [],
): Promise<SystemServer> {
  const args = ["serve", "--listen", "127.0.0.1:0", "--journal", journal, ...flags];
  const { child, url } = await startNode(main, args, nodeOptions);
  return { url, pid: child.pid, stop: () => end(child) };
}

/** A run to be made. */
export interface NewRun {
  readonly runId: string;
  readonly create: MessageInitShape<typeof RunSpecSchema>;
  /** Whether it ends at once. */
  readonly isEnded: boolean;
}

/** Runs of one call that makes many: servers allow 10,000 on one. */
const runsPerCall = 9_000;

/** What is read of a journal: a run, a family or several runs. */
export type RunlogScope = NonNullable<
  MessageInitShape<typeof SubscribeRequestSchema>["filter"]
>["scope"] & {};

type Call = ClientDuplexStream<MessageInitShape<typeof IngestRequestSchema>, IngestResponse>;

/** Milliseconds that a sender may take to leave its run. */
const closeTimeoutMs = 10_000;
/** Connections over which subscriptions are spread; servers allow 10,000 streams on one. */
const connections = 4;

/** One stream of frames, of any number of runs. */
class Ingest {
  readonly call: Call;
  readonly failed: Promise<never>;
  /** Told of the number in each signal, and of its place among the run's. */
  onSignal: (n: number, signalSeq: bigint) => void = () => undefined;
  #onAck: (runId: string, runSeq: number) => void;
  readonly #opened = new Map<string, () => void>();
  readonly #ended = new Map<string, () => void>();

  constructor(client: Client, metadata: Metadata, onAck: (runId: string, runSeq: number) => void) {
    this.#onAck = onAck;
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => undefined);
    this.failed = promise;
    this.call = client.makeBidiStreamRequest(
      "/runlog.v1.IngestService/Ingest",
      (frame) => Buffer.from(toBinary(IngestRequestSchema, create(IngestRequestSchema, frame))),
      (bytes) => fromBinary(IngestResponseSchema, bytes),
      metadata,
    );
    this.call.on("error", reject);
    this.call.on("data", ({ frame }: IngestResponse) => {
      if (frame.case === "ack") this.#onAck(frame.value.runId, Number(frame.value.runSeq));
      else if (frame.case === "opened") this.#opened.get(frame.value.runId)?.();
      else if (frame.case === "ended") this.#ended.get(frame.value.run!.runId)?.();
      else if (frame.case === "signal") {
        const { event, signalSeq } = frame.value.signal!;
        this.onSignal(numberOf(event!.data), signalSeq);
      } else reject(new Error(`void: unexpected ${frame.case}`));
    });
  }

  /** Opens a run, and creates it where it is missing. */
  async open(runId: string, parentRunId = "", receiveSignals = false): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#opened.set(runId, resolve);
    const value = { runId, create: { parentRunId }, receiveSignals };
    this.call.write({ frame: { case: "open", value } });
    await Promise.race([promise, this.failed]);
  }

  /** Opens a new run, and ends it where it is to be ended. */
  async make({ runId, create: spec, isEnded }: NewRun): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    (isEnded ? this.#ended : this.#opened).set(runId, resolve);
    this.call.write({ frame: { case: "open", value: { runId, create: spec } } });
    if (isEnded) {
      const value = { runId, result: { state: RunState.SUCCEEDED } };
      this.call.write({ frame: { case: "finish", value } });
    }
    await Promise.race([promise, this.failed]);
  }

  append(
    runId: string,
    first: number,
    payloads: readonly Buffer[],
    handledSignalSeq = 0n,
  ): boolean {
    const events = payloads.map((data) => ({ type: "token", data }));
    const value = { runId, firstRunSeq: BigInt(first), events, handledSignalSeq };
    return this.call.write({ frame: { case: "append", value } });
  }

  async close(): Promise<void> {
    this.call.end();
    await once(this.call, "end");
  }
}

/** runlog's client; it can do more than its peers. */
export class RunlogClient implements SystemClient {
  readonly url: string;
  readonly #token: string | undefined;
  /** Of every call. */
  readonly #metadata = new Metadata();
  readonly #clients: readonly Client[];
  /** runlog's own client, where it is used. */
  #own: NodeConnection | undefined;
  readonly #senders: RunSender[] = [];
  /** By run; an open names the parent that the run was created with. */
  readonly #parents = new Map<string, string>();
  #next = 0;
  readonly #single = new Map<string, { ingest: Ingest; acked: (() => void)[]; sent: number }>();

  /** @param token what each call shows */
  constructor(url: string, token?: string) {
    this.url = url;
    this.#token = token;
    if (token !== undefined) this.#metadata.set("authorization", `Bearer ${token}`);
    this.#clients = Array.from(
      { length: connections },
      (_, index) =>
        new Client(url.replace("http://", ""), credentials.createInsecure(), {
          "grpc.max_receive_message_length": -1,
          "grpc-node.flow_control_window": 4 * 1024 * 1024,
          // A connection of its own for each of these clients.
          "grpc.use_local_subchannel_pool": 1,
          "bench.connection": index,
        }),
    );
  }

  /** Creates runs under a parent, thousands if need be. */
  async createRuns(runIds: readonly string[], parentOf: (index: number) => string): Promise<void> {
    const ingest = new Ingest(this.#clients[0]!, this.#metadata, () => undefined);
    const batch = 500;
    for (let at = 0; at < runIds.length; at += batch) {
      const part = runIds.slice(at, at + batch);
      for (const [index, runId] of part.entries()) this.#parents.set(runId, parentOf(at + index));
      await Promise.all(part.map((runId) => ingest.open(runId, this.#parents.get(runId))));
    }
    await ingest.close();
  }

  /** runlog's own transport, for calls that its peers do not have. */
  get transport(): NodeConnection["transport"] {
    const token = this.#token;
    this.#own ??= connectTo(
      this.url,
      token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } },
    );
    return this.#own.transport;
  }

  /** Makes runs, hundreds of thousands if need be. */
  async makeRuns(runs: Iterable<NewRun>): Promise<void> {
    const batch = 500;
    let ingest: Ingest | undefined;
    let made = 0;
    let making: Promise<void>[] = [];
    for (const run of runs) {
      ingest ??= new Ingest(this.#clients[0]!, this.#metadata, () => undefined);
      making.push(ingest.make(run));
      made++;
      if (making.length < batch) continue;
      await Promise.all(making);
      making = [];
      if (made % runsPerCall !== 0) continue;
      await ingest.close();
      ingest = undefined;
    }
    await Promise.all(making);
    await ingest?.close();
  }

  async write(
    stream: string,
    payloads: Payloads,
    { first, count, perAppend }: { first: number; count: number; perAppend: number },
  ): Promise<void> {
    const last = first + count - 1;
    const { promise: done, resolve } = Promise.withResolvers<void>();
    const ingest = new Ingest(this.#clients[0]!, this.#metadata, (_, runSeq) => {
      if (runSeq === last) resolve();
    });
    await ingest.open(stream, this.#parents.get(stream));
    for (let at = first; at <= last; at += perAppend) {
      const size = Math.min(perAppend, last - at + 1);
      const part = Array.from({ length: size }, (_, index) => payloads.of(at + index));
      if (!ingest.append(stream, at, part)) await once(ingest.call, "drain");
    }
    await Promise.race([done, ingest.failed]);
    await ingest.close();
  }

  async writeEach(
    streams: readonly string[],
    payloads: Payloads,
    { eventsEach, unacked }: Emission,
  ): Promise<void> {
    const { transport } = this;
    await Promise.all(
      streams.map(async (runId) => {
        const limits = { maxBufferedEvents: unacked };
        const sender = openRun(transport, { runId, spec: {}, limits });
        this.#senders.push(sender);
        for (let n = 1; n <= eventsEach; n++) {
          await sender.ready();
          if (!sender.emit({ type: "token", data: payloads.of(n) })) {
            throw new Error("void: an event was not taken");
          }
          if (unacked > 1) await nextEmission();
        }
        await sender.flush();
      }),
    );
  }

  read(stream: string, count: number, onEvent: OnEvent): Promise<void> {
    return this.readScope({ case: "runIds", value: { runIds: [stream] } }, count, onEvent);
  }

  /** Reads what a filter's scope has, until so many events have come. */
  readScope(scope: RunlogScope, count: number, onEvent: OnEvent): Promise<void> {
    return new Promise((resolve, reject) => {
      let left = count;
      const call = this.#subscribe(scope, 0n, (response) => {
        if (response.frame.case !== "events") return;
        for (const { record } of response.frame.value.events) {
          if (record.case !== "event") continue;
          onEvent(numberOf(record.value.data));
          left--;
        }
        if (left <= 0) {
          call.cancel();
          resolve();
        }
      });
      call.on("error", reject);
    });
  }

  follow(stream: string, onEvent: OnEvent): Promise<Following> {
    return this.followScope({ case: "runIds", value: { runIds: [stream] } }, onEvent);
  }

  /** Follows what a filter's scope has from now on. */
  async followScope(scope: RunlogScope, onEvent: OnEvent): Promise<Following> {
    const attached = Promise.withResolvers<void>();
    const broken = Promise.withResolvers<never>();
    broken.promise.catch(() => undefined);
    let isStopped = false;
    const call = this.#subscribe(scope, "now", ({ frame }) => {
      if (frame.case === "subscribed") attached.resolve();
      if (frame.case !== "events") return;
      for (const { record } of frame.value.events) {
        if (record.case === "event") onEvent(numberOf(record.value.data));
      }
    });
    call.on("error", (error) => {
      if (!isStopped) broken.reject(error);
    });
    await Promise.race([attached.promise, broken.promise]);
    return {
      failed: broken.promise,
      stop: async () => {
        isStopped = true;
        call.cancel();
        await once(call, "close").catch(() => undefined);
      },
    };
  }

  /**
   * Produces a run that answers each signal with an event of its number, in the Append that
   * says that it is handled. Resolves once the run is open.
   */
  async answerSignals(runId: string, payloads: Payloads): Promise<Following> {
    const ingest = new Ingest(this.#clients[0]!, this.#metadata, () => undefined);
    let runSeq = 0;
    const { promise: broken, reject } = Promise.withResolvers<never>();
    ingest.onSignal = (n, signalSeq) => {
      if (signalSeq !== BigInt(runSeq + 1)) {
        reject(new Error(`void: signal ${signalSeq} came after ${runSeq}`));
      }
      ingest.append(runId, ++runSeq, [payloads.of(n)], signalSeq);
    };
    await ingest.open(runId, "", true);
    return {
      failed: Promise.race([ingest.failed, broken]),
      stop: () => {
        ingest.onSignal = () => undefined;
        return ingest.close();
      },
    };
  }

  /** Subscribes from the beginning and takes nothing: a subscriber that does not read. */
  async attachWithoutReading(scope: RunlogScope): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const call = this.#subscribe(scope, 0n, () => {
      call.pause();
      resolve();
    });
    call.on("error", reject);
    await promise;
  }

  #subscribe(
    scope: RunlogScope,
    after: bigint | "now",
    onResponse: (response: SubscribeResponse) => void,
  ) {
    const client = this.#clients[this.#next++ % connections]!;
    const call = client.makeServerStreamRequest(
      "/runlog.v1.SubscribeService/Subscribe",
      (request: MessageInitShape<typeof SubscribeRequestSchema>) =>
        Buffer.from(toBinary(SubscribeRequestSchema, create(SubscribeRequestSchema, request))),
      decodeSubscribeResponse,
      {
        filter: { scope },
        start:
          after === "now" ? { case: "fromNow", value: true } : { case: "afterSeq", value: after },
      },
      this.#metadata,
    );
    call.on("data", onResponse);
    return call;
  }

  async writeOne(stream: string, payload: Buffer): Promise<void> {
    let single = this.#single.get(stream);
    if (single === undefined) {
      const acked: (() => void)[] = [];
      const ingest = new Ingest(this.#clients[0]!, this.#metadata, (_, runSeq) => {
        // Acknowledgements are cumulative: this one speaks for all before it.
        for (; done < runSeq; done++) acked.shift()?.();
      });
      let done = 0;
      single = { ingest, acked, sent: 0 };
      this.#single.set(stream, single);
      await ingest.open(stream, this.#parents.get(stream));
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    single.acked.push(resolve);
    single.ingest.append(stream, ++single.sent, [payload]);
    await Promise.race([promise, single.ingest.failed]);
  }

  async close(): Promise<void> {
    await Promise.all(this.#senders.map((sender) => sender.close(closeTimeoutMs)));
    this.#own?.close();
    for (const { ingest } of this.#single.values()) await ingest.close();
    for (const client of this.#clients) client.close();
  }
}

/** runlog on its embedded journal. */
export const runlog: Omit<System, "connect"> & { connect(url: string): Promise<RunlogClient> } = {
  name: "runlog",
  durability: "fsync before each acknowledgement, commits are shared",
  start(directory) {
    const journal = `sqlite:${join(directory, "runlog.db")}`;
    return startRunlog(journal);
  },
  connect: (url) => Promise.resolve(new RunlogClient(url)),
};
