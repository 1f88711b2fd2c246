import { RunService } from "../../gen/runlog/v1/run_pb.js";
import type { SeenFilter } from "../history/entry.ts";
import type { History } from "../history/history.ts";
import type { Random } from "../random.ts";
import { pause, type Stage } from "./actor.ts";
import { Agent } from "./agent.ts";
import { CallFailure, Channel } from "./channel.ts";
import { readPages, replay } from "./reader.ts";
import { type Plan, quietRun, rootRun, specOf, stateName } from "./runs.ts";
import { sendSignals } from "./signal-sender.ts";
import { StreamProducer } from "./stream-producer.ts";
import { Subscriber } from "./subscriber.ts";
import { produceRun, produceWindows } from "./window-producer.ts";

/** How much of what. */
const producers = { streams: 3, windows: 2, rivals: 2, agents: 3, senders: 3 } as const;
const runsAtOnce = 2;
const eventsOfRun = { min: 20, max: 160 } as const;
/** Events of the run that rivals take from each other: they never get there. */
const rivalEvents = 1_000_000;
const rivalStaysMs = { min: 1_500, max: 3_000 } as const;
const forkedRuns = ["source", "fork", "fork-of-fork"] as const;
/** Milliseconds for producers to finish, subscribers to catch up, and a call of the set-up. */
const closeMs = 45_000;
const setUpMs = 10_000;

const staysBriefly = { min: 300, max: 2_500 };
const staysLong = { min: 8_000, max: 60_000 };

const filters: Readonly<Record<string, SeenFilter>> = {
  all: { scope: { t: "all" }, types: [] },
  tokens: { scope: { t: "all" }, types: ["token", "step.b*"] },
  family: { scope: { t: "ancestor", run: rootRun, includesSelf: true, maxDepth: 0 }, types: [] },
  children: { scope: { t: "ancestor", run: rootRun, includesSelf: false, maxDepth: 1 }, types: [] },
  runs: { scope: { t: "runs", runs: ["stream-0.0", "window-0.0", "rivalry"] }, types: [] },
  forks: { scope: { t: "runs", runs: ["fork-of-fork"], inherited: true }, types: [] },
  signals: { scope: { t: "all" }, types: ["inp*"], kinds: ["signal"] },
  lifecycle: { scope: { t: "all" }, types: [], kinds: ["lifecycle"] },
  quiet: { scope: { t: "runs", runs: [quietRun] }, types: [] },
};

/**
 * The load of a history: producers of all kinds, rivals for one run, and a subscriber for
 * each kind of filter, all on their own while faults come and go.
 */
export class Load {
  readonly #stage: Stage;
  readonly #random: Random;
  readonly #closing = new AbortController();
  readonly #ending = new AbortController();
  readonly #subscribers: Subscriber[] = [];
  #producing: Promise<unknown> = Promise.resolve();
  #subscribing: Promise<unknown> = Promise.resolve();

  /** @param nodes URLs of all nodes */
  constructor(history: History, nodes: readonly string[], random: Random) {
    this.#random = random;
    const closing = this.#closing.signal;
    this.#stage = { history, nodes, closing, ending: this.#ending.signal };
  }

  /** Makes the runs that filters name, and starts everybody; the nodes have to be well. */
  async start(): Promise<void> {
    await this.#setUp();
    const producing: Promise<void>[] = [];
    for (let index = 0; index < producers.streams; index++) {
      const name = `stream-${index}`;
      const random = this.#random.fork(name);
      const nextPlan = plansOf(name, random);
      producing.push(new StreamProducer(this.#stage, { name, random, nextPlan, runsAtOnce }).run());
    }
    for (let index = 0; index < producers.windows; index++) {
      const name = `window-${index}`;
      const random = this.#random.fork(name);
      producing.push(
        produceWindows(this.#stage, { name, random, nextPlan: plansOf(name, random) }),
      );
    }
    for (let index = 0; index < producers.rivals; index++) producing.push(this.#rival(index));
    const reachable = new Set<string>();
    for (let index = 0; index < producers.agents; index++) {
      const name = `agent-${index}`;
      const random = this.#random.fork(name);
      const nextPlan = plansOf(name, random);
      producing.push(new Agent(this.#stage, { name, random, nextPlan, reachable }).run());
    }
    for (let index = 0; index < producers.senders; index++) {
      const name = `sender-${index}`;
      producing.push(
        sendSignals(this.#stage, { name, random: this.#random.fork(name), reachable }),
      );
    }
    this.#producing = Promise.all(producing);
    for (const [name, filter] of Object.entries(filters)) {
      for (const over of ["Subscribe", "Watch"] as const) {
        const staysMs = over === "Watch" || name === "quiet" ? staysLong : staysBriefly;
        const options = { name: `${name} over ${over}`, filter, over, staysMs };
        const random = this.#random.fork(options.name);
        this.#subscribers.push(new Subscriber(this.#stage, { ...options, random }));
      }
    }
    this.#subscribing = Promise.all(this.#subscribers.map((one) => one.run()));
  }

  /**
   * Lets producers finish, waits until every subscriber has everything, and reads the whole
   * journal at each node; the nodes have to be well again. What is not done in time is for
   * the checker to find.
   */
  async finish(): Promise<void> {
    const { history, nodes } = this.#stage;
    this.#closing.abort();
    await Promise.race([this.#producing, pause(closeMs, this.#ending.signal)]);
    const last = (await replay(nodes[0]!)).at(-1)?.seq ?? 0;
    const givesUpMs = performance.now() + closeMs;
    while (performance.now() < givesUpMs && this.#subscribers.some(({ cursor }) => cursor < last)) {
      await pause(100, this.#ending.signal);
    }
    await this.stop();
    for (const node of nodes) {
      history.append({ t: "journal", reader: "Subscribe", node, records: await replay(node) });
    }
    for (const backward of [false, true]) {
      const records = await readPages(nodes.at(-1)!, backward);
      const reader = backward ? "ReadEvents, backward" : "ReadEvents";
      history.append({ t: "journal", reader, node: nodes.at(-1)!, records });
    }
    await this.#noteRuns();
  }

  /** Ends everybody at once. */
  async stop(): Promise<void> {
    this.#closing.abort();
    this.#ending.abort();
    await Promise.all([this.#producing, this.#subscribing]);
  }

  async #setUp(): Promise<void> {
    const { history, nodes } = this.#stage;
    const by = "set-up";
    const random = this.#random.fork(by);
    const channel = new Channel(nodes[0]!);
    try {
      for (const runId of [rootRun, quietRun]) {
        await channel.unary(RunService.method.createRun, { runId, spec: specOf("") }, setUpMs);
      }
      const events = 15;
      for (const [index, run] of forkedRuns.entries()) {
        const source = forkedRuns[index - 1];
        if (source !== undefined) {
          const request = {
            sourceRunId: source,
            runSeq: BigInt(events - 5),
            runId: run,
            spec: specOf(""),
          };
          await channel.unary(RunService.method.forkRun, request, setUpMs);
        }
        await produceRun(
          this.#stage,
          { name: by, random },
          { run, parent: "", events, isThere: source !== undefined },
        );
      }
    } finally {
      channel.close();
    }
    history.flush();
  }

  /** Takes the run of all rivals, keeps it for a while, and takes it again. */
  async #rival(index: number): Promise<void> {
    const name = `rival-${index}`;
    const random = this.#random.fork(name);
    const { history, nodes, closing } = this.#stage;
    while (!closing.aborted) {
      const round = new AbortController();
      const stay = AbortSignal.any([closing, round.signal]);
      const plan: Plan = { run: "rivalry", parent: rootRun, events: rivalEvents };
      const stage = { history, nodes, closing, ending: stay };
      const options = { name, random, nextPlan: () => plan, runsAtOnce: 1, isRival: true };
      const producing = new StreamProducer(stage, options).run();
      await pause(random.between(rivalStaysMs.min, rivalStaysMs.max), stay);
      round.abort();
      await producing;
    }
  }

  async #noteRuns(): Promise<void> {
    const { history, nodes } = this.#stage;
    for (const node of nodes) {
      const channel = new Channel(node);
      try {
        for (let pageToken = ""; ; ) {
          const request = { pageSize: 500, pageToken };
          const page = await channel.unary(RunService.method.listRuns, request, closeMs);
          for (const { runId: run, state, lastRunSeq, handledSignalSeq } of page.runs) {
            history.append({
              t: "run",
              node,
              run,
              state: stateName(state),
              lastRunSeq: Number(lastRunSeq),
              handled: Number(handledSignalSeq),
            });
          }
          pageToken = page.nextPageToken;
          if (pageToken === "") break;
        }
      } catch (error) {
        if (!(error instanceof CallFailure)) throw error;
        history.append({ t: "found", promise: "ListRuns", what: `${node}: ${error.message}` });
      } finally {
        channel.close();
      }
    }
  }
}

/** Runs without end: roots, children of the family, and children of the runs before. */
function plansOf(name: string, random: Random): () => Plan {
  let count = 0;
  let previous = rootRun;
  return () => {
    const run = `${name}.${count++}`;
    const parent = random.pick(["", rootRun, rootRun, count % 4 === 0 ? rootRun : previous]);
    previous = run;
    return { run, parent, events: random.between(eventsOfRun.min, eventsOfRun.max) };
  };
}
