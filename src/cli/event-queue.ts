import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import type { EventInit, RunSender } from "../client/index.ts";
import { startTimer } from "../timers.ts";
import { notice } from "./output.ts";
import { Spool } from "./spool.ts";
import { sizeText } from "./text.ts";

/** Milliseconds without room in the sender that make an outage. */
const outageMs = 1_000;

/**
 * From the reader to the sender: an outage does not block the reader.
 *
 * Invariants: events leave in the order in which they came; what has been taken is sent, or
 * reported. While the server takes events, its pace is the reader's. Where it has taken none
 * for a second, events go to the spool until that is full, and only then does the reader wait.
 */
export class EventQueue {
  /** Gives an event to the sender, which has room for it. */
  emit: (event: EventInit) => void;
  readonly #sender: RunSender;
  readonly #spool: Spool;
  readonly #maxSpoolBytes: number;
  #pump: Promise<void> | undefined;
  #waiting: (() => void)[] = [];
  #toldFull = false;
  /** Why nothing is taken any more. */
  #failure: { readonly error: unknown } | undefined;

  constructor(sender: RunSender, maxSpoolBytes: number) {
    this.#sender = sender;
    // What it does not take it reports to onDrop.
    this.emit = (event) => void sender.emit(event);
    this.#maxSpoolBytes = maxSpoolBytes;
    this.#spool = new Spool(maxSpoolBytes);
  }

  /**
   * Takes an event; resolves once the next one may come. Rejects once the run takes
   * nothing more.
   */
  async put(event: EventInit): Promise<void> {
    this.#throwIfFailed();
    while (this.#pump === undefined) {
      // Looked at here, not when it came: whoever else waited may have taken the room.
      if (this.#sender.hasRoom) {
        this.emit(event);
        return;
      }
      const isOutage = !(await this.#hasRoomSoon());
      this.#throwIfFailed();
      // Another one may have begun meanwhile.
      if (isOutage) this.#pump ??= this.#empty();
    }
    const timed = create(EventSchema, { time: timestampFromMs(Date.now()), ...event });
    const bytes = toBinary(EventSchema, timed);
    while (!this.#spool.put(bytes)) {
      this.#tellFull();
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
      this.#throwIfFailed();
      if (this.#pump === undefined) return this.put(event);
    }
  }

  /** Resolves once everything that was put is with the sender. Rejects as put does. */
  async drained(): Promise<void> {
    await this.#pump;
    this.#throwIfFailed();
  }

  /** Gives the spool's file back. */
  close(): void {
    this.#spool.close();
  }

  /** Whether there is room within the time after which it is an outage. */
  async #hasRoomSoon(): Promise<boolean> {
    const { promise: late, resolve } = Promise.withResolvers<boolean>();
    const timer = startTimer(resolve, outageMs, false);
    try {
      return await Promise.race([this.#sender.ready().then(() => true), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Moves the spool's events to the sender, until none is left. Never rejects. */
  async #empty(): Promise<void> {
    notice("the server accepts no events: keeping them on disk until it does");
    try {
      do {
        await this.#sender.ready();
        while (this.#sender.hasRoom) {
          const bytes = this.#spool.take();
          if (bytes === undefined) break;
          this.emit(fromBinary(EventSchema, bytes));
        }
        this.#wake();
      } while (this.#spool.count > 0);
    } catch (error) {
      this.#failure = { error };
    }
    this.#pump = undefined;
    this.#toldFull = false;
    this.#wake();
  }

  #wake(): void {
    for (const resume of this.#waiting.splice(0)) resume();
  }

  #throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  #tellFull(): void {
    if (this.#toldFull) return;
    this.#toldFull = true;
    notice(
      `${sizeText(this.#maxSpoolBytes)} are on disk, or the disk is full: input waits for the server (--spool sets the bound)`,
    );
  }
}
