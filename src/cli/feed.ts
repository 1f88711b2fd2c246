/**
 * Lines of an input into a run, losing nothing silently.
 *
 * Invariant: every line becomes an event; for one that cannot, because it is over the
 * server's limit, an event `runlog.dropped` stands in the log, and it is reported and counted.
 */
import type { Drop, EventInit, RunSender } from "../client/index.ts";
import { defaultMaxEventBytes } from "../client/limits.ts";
import { startTimer } from "../timers.ts";
import { EventQueue } from "./event-queue.ts";
import { droppedEvent, droppedType, eventOfLine, lineEndAttribute } from "./line-event.ts";
import { type Line, LineSplitter } from "./lines.ts";
import { notice } from "./output.ts";

/** Milliseconds without more of it after which what there is of a line is recorded. */
const pauseMs = 1_000;

/** How to read an input. */
export interface FeedOptions {
  /** Stands in reports. */
  readonly name: string;
  /** Of each event. */
  readonly attributes: Readonly<Record<string, string>>;
  /** Whether only a newline ends a line, as SplitOptions says. Default false. */
  readonly newlinesOnly?: boolean;
  /** Lines at the beginning that are in the run already. Default 0. */
  readonly skip?: number;
}

/** Turns inputs into events of one run. */
export class LineFeed {
  #queue: EventQueue | undefined;
  #maxLineBytes = defaultMaxEventBytes;
  #dropped = 0;
  /** Reports of what the sender gave up, which have to go into the log. */
  #reports: Promise<void> = Promise.resolve();

  /** For OpenRunOptions.onDrop: also of events that were taken, and are too large for a server that came later. */
  readonly onDrop = ({ event, bytes, limit, reason }: Drop): void => {
    this.#dropped++;
    notice(`not recorded: an event ${event.type} of ${bytes} bytes (${reason}, limit ${limit})`);
    // A report that is too large is not reported again.
    if (event.type === droppedType) return;
    const { type, attributes } = event;
    this.#report(droppedEvent({ type, bytes, limit }, attributes));
  };

  /** Lines and events that were not recorded. */
  get dropped(): number {
    return this.#dropped;
  }

  /** The run that takes the lines, the size of an event that its server takes, and the bound of the spool in bytes. */
  attach(sender: RunSender, maxEventBytes: number | undefined, maxSpoolBytes: number): void {
    this.#queue = new EventQueue(sender, maxSpoolBytes);
    this.#maxLineBytes = maxEventBytes ?? defaultMaxEventBytes;
  }

  /** Lets `emit` give events to the sender, in the order in which they are recorded. */
  emitBy(emit: (event: EventInit) => void): void {
    this.#attached().emit = emit;
  }

  /**
   * Reads `input` to its end; `each` sees every chunk once it is recorded. Resolves with
   * the number of lines. Rejects once the run takes nothing more.
   */
  async read(
    input: AsyncIterable<Uint8Array>,
    options: FeedOptions,
    each: (chunk: Uint8Array) => Promise<void> = async () => undefined,
  ): Promise<number> {
    const { newlinesOnly = false } = options;
    const splitter = new LineSplitter({ maxBytes: this.#maxLineBytes, newlinesOnly });
    const chunks = input[Symbol.asyncIterator]();
    let count = 0;
    const takeAll = async (lines: readonly Line[]) => {
      for (const line of lines) {
        count = line.number;
        if (count > (options.skip ?? 0)) await this.#take(line, options);
      }
    };
    let ended = false;
    try {
      for (;;) {
        const next = chunks.next();
        if (splitter.hasPartial && !(await settlesSoon(next))) await takeAll(splitter.pause());
        const result = await next;
        if (result.done === true) break;
        await takeAll(splitter.push(result.value));
        await each(result.value);
      }
      ended = true;
    } finally {
      // Also where the input was cut off: what came is kept.
      await takeAll(splitter.end());
      if (!ended) await chunks.return?.();
    }
    return count;
  }

  /** Resolves once all that was read is with the sender. Rejects once the run takes nothing more. */
  async drained(): Promise<void> {
    await this.#queue?.drained();
    await this.#reports;
    await this.#queue?.drained();
  }

  /** Gives back what it holds on disk. */
  close(): void {
    this.#queue?.close();
  }

  async #take(line: Line, { name, attributes }: FeedOptions): Promise<void> {
    const queue = this.#attached();
    const all =
      line.end === "newline" ? attributes : { ...attributes, [lineEndAttribute]: line.end };
    if (line.t === "line") {
      await queue.put(eventOfLine(line.bytes, all));
      return;
    }
    this.#dropped++;
    const limit = this.#maxLineBytes;
    notice(
      `${name} line ${line.number} has ${line.size} bytes, the limit is ${limit}: not recorded`,
    );
    await queue.put(droppedEvent({ bytes: line.size, limit }, all));
  }

  #attached(): EventQueue {
    if (this.#queue === undefined) throw new Error("LineFeed.attach comes first");
    return this.#queue;
  }

  /** Puts a report behind those before it; drained waits for it, and the run's end says more than its failure. */
  #report(event: ReturnType<typeof droppedEvent>): void {
    this.#reports = this.#reports.then(() => this.#queue?.put(event)).catch(() => undefined);
  }
}

/** Whether a promise settles within the pause after which a line is cut. */
async function settlesSoon(promise: Promise<unknown>): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const timer = startTimer(resolve, pauseMs, false);
  try {
    return await Promise.race([promise.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
