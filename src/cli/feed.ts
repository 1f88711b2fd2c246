/**
 * Lines of an input into a run, losing nothing silently.
 *
 * Invariant: an input is read only as fast as the run takes its events, so
 * memory is bounded; every line becomes an event or is reported and counted.
 */
import type { Drop, RunSender } from "../client/index.ts";
import { defaultMaxEventBytes } from "../client/limits.ts";
import { eventOfLine } from "./line-event.ts";
import { type Line, LineSplitter } from "./lines.ts";
import { notice } from "./output.ts";

/** Turns inputs into events of one run. */
export class LineFeed {
  #sender: RunSender | undefined;
  #maxLineBytes = defaultMaxEventBytes;
  #dropped = 0;
  /** The drop that the present emit caused. */
  #drop: Drop | undefined;

  /** For OpenRunOptions.onDrop. */
  readonly onDrop = (drop: Drop): void => {
    this.#drop = drop;
  };

  /** Lines that did not become events. */
  get dropped(): number {
    return this.#dropped;
  }

  /** The run that takes the lines, and the size of an event that its server takes. */
  attach(sender: RunSender, maxEventBytes: number | undefined): void {
    this.#sender = sender;
    this.#maxLineBytes = maxEventBytes ?? defaultMaxEventBytes;
  }

  /**
   * Reads `input` to its end. `each` sees every chunk first. `name` stands in
   * reports. Rejects once the run takes nothing more.
   */
  async read(
    input: AsyncIterable<Uint8Array>,
    name: string,
    attributes: Readonly<Record<string, string>>,
    each: (chunk: Uint8Array) => Promise<void> = async () => undefined,
  ): Promise<void> {
    const splitter = new LineSplitter(this.#maxLineBytes);
    try {
      for await (const chunk of input) {
        await each(chunk);
        for (const line of splitter.push(chunk)) {
          await this.#take(line, name, attributes);
        }
      }
    } finally {
      // Also where the input was cut off: what came is kept.
      for (const line of splitter.end()) {
        await this.#take(line, name, attributes);
      }
    }
  }

  async #take(
    line: Line,
    name: string,
    attributes: Readonly<Record<string, string>>,
  ): Promise<void> {
    const sender = this.#sender;
    if (sender === undefined) {
      throw new Error("LineFeed.attach comes first");
    }
    if (line.t === "too_long") {
      this.#report(name, line.number, line.size, this.#maxLineBytes);
      return;
    }
    while (!sender.hasRoom) {
      await sender.ready();
    }
    this.#drop = undefined;
    if (!sender.emit(eventOfLine(line.bytes, attributes))) {
      // Throws where the run is over; otherwise this one line was at fault.
      await sender.ready();
      const limit = (this.#drop as Drop | undefined)?.limit ?? this.#maxLineBytes;
      this.#report(name, line.number, line.bytes.length, limit);
    }
  }

  #report(name: string, number: number, size: number, limit: number): void {
    this.#dropped++;
    notice(
      `${name} line ${number} has ${size} bytes, an event takes at most ${limit}: not recorded`,
    );
  }
}
