import assert from "node:assert/strict";
import { EventQueue } from "../../src/cli/event-queue.ts";
import type { EventInit, RunSender } from "../../src/client/index.ts";

const maxSpoolBytes = 1_024;

/** A sender with room for one event at a time, which drops what it has no room for. */
class SmallSender {
  readonly sent: EventInit[] = [];
  readonly dropped: EventInit[] = [];
  #room = Promise.withResolvers<void>();
  hasRoom = false;

  /** Makes room for one more. */
  makeRoom(): void {
    this.hasRoom = true;
    this.#room.resolve();
  }

  async ready(): Promise<void> {
    while (!this.hasRoom) await this.#room.promise;
  }

  emit(event: EventInit): void {
    (this.hasRoom ? this.sent : this.dropped).push(event);
    this.hasRoom = false;
    this.#room = Promise.withResolvers();
  }
}

describe("a queue of events", () => {
  it("drops nothing where two inputs wait for the room of one event", async () => {
    const sender = new SmallSender();
    const queue = new EventQueue(sender as unknown as RunSender, maxSpoolBytes);
    const puts = [{ type: "a" }, { type: "b" }].map((event) => queue.put(event));
    sender.makeRoom();
    await Promise.race(puts);
    sender.makeRoom();
    await Promise.all(puts);
    queue.close();
    assert.deepEqual([sender.sent.length, sender.dropped.length], [2, 0]);
  });
});
