/**
 * What a page does that watches a family of runs: the client, over a transport of
 * connect-web. It is bundled for the browser; tests call it by `globalThis.runlogPage`.
 */
import { createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { Reason } from "../gen/runlog/v1/error_pb.js";
import type { SequencedEvent } from "../gen/runlog/v1/record_pb.js";
import { RunService } from "../gen/runlog/v1/run_pb.js";
import {
  errorDetailOf,
  type FollowRequest,
  follow,
  RunlogError,
  signalRun,
  withToken,
} from "../src/client/index.ts";

const transports = {
  "gRPC-Web": createGrpcWebTransport,
  Connect: createConnectTransport,
  "Connect, binary": (options: { baseUrl: string }) =>
    createConnectTransport({ ...options, useBinaryFormat: true, useHttpGet: true }),
};

/** Over which protocol a page calls. */
export type PageProtocol = keyof typeof transports;

/** The fields of a record that tests read. */
export interface SeenRecord {
  readonly seq: number;
  readonly runId: string;
  /** Of an event or a signal; the kind of any other record. */
  readonly text: string;
  /** Of a signal. */
  readonly sender: string;
}

/** How a call ended that the page made. */
export type Outcome = "ok" | { readonly reason: string; readonly message: string };

class Page {
  readonly #transport: Transport;
  readonly #seen: SeenRecord[] = [];
  #resumed = 0;
  #wake: () => void = () => undefined;

  constructor(protocol: PageProtocol, baseUrl: string) {
    const transport = transports[protocol]({ baseUrl });
    const { nextToken } = globalThis;
    this.#transport = nextToken === undefined ? transport : withToken(transport, nextToken);
  }

  /** Follows a family, or everything, until it is refused. */
  follow(ancestorRunId: string | undefined): Promise<Outcome> {
    const filter: FollowRequest["filter"] =
      ancestorRunId === undefined
        ? { scope: { case: "all", value: {} } }
        : { scope: { case: "ancestor", value: { ancestorRunId, includeSelf: true } } };
    return outcomeOf(async () => {
      for await (const item of follow(
        this.#transport,
        { filter, progressIntervalMs: 1_000 },
        {
          backoff: { baseMs: 50, capMs: 200 },
          onState: (state) => {
            if (state.t !== "following" || !state.resumed) return;
            this.#resumed++;
            this.#wake();
          },
        },
      )) {
        if (item.t !== "records") continue;
        this.#seen.push(...item.records.map(toSeen));
        this.#wake();
      }
    });
  }

  /** Waits until so many records were seen, and the page resumed so often; all that were seen. */
  async seen(count: number, resumed: number): Promise<readonly SeenRecord[]> {
    while (this.#seen.length < count || this.#resumed < resumed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#seen;
  }

  /** Sends a signal; does not try again for long. */
  signal(runId: string, text: string): Promise<Outcome> {
    const event = { type: "said", data: new TextEncoder().encode(text) };
    return outcomeOf(() => signalRun(this.#transport, { runId, event }, { timeoutMs: 2_000 }));
  }

  /** Looks a run up. */
  getRun(runId: string): Promise<Outcome> {
    return outcomeOf(() => createClient(RunService, this.#transport).getRun({ runId }));
  }
}

async function outcomeOf(call: () => Promise<unknown>): Promise<Outcome> {
  try {
    await call();
    return "ok";
  } catch (error) {
    const detail = error instanceof RunlogError ? error.detail : errorDetailOf(error);
    const reason = detail === undefined ? "none" : Reason[detail.reason];
    return { reason, message: error instanceof Error ? error.message : String(error) };
  }
}

function toSeen({ seq, runId, record }: SequencedEvent): SeenRecord {
  const rest = { seq: Number(seq), runId };
  const decode = (data: Uint8Array | undefined) => new TextDecoder().decode(data);
  switch (record.case) {
    case "event":
      return { ...rest, text: decode(record.value.data), sender: "" };
    case "signal":
      return { ...rest, text: decode(record.value.event?.data), sender: record.value.sender };
    default:
      return { ...rest, text: record.case ?? "", sender: "" };
  }
}

declare global {
  /** Gives the page its tokens, where it has any. Tests provide it. */
  var nextToken: (() => Promise<string>) | undefined;
  var runlogPage: Page;
  var openRunlogPage: (protocol: PageProtocol, baseUrl: string) => void;
}

globalThis.openRunlogPage = (protocol, baseUrl) => {
  globalThis.runlogPage = new Page(protocol, baseUrl);
};
