import assert from "node:assert/strict";
import { History } from "../../src/journal/history.ts";
import type { NamespaceRow } from "../../src/journal/namespaces.ts";

/** A namespace after so many transactions, of which `appendId` names the last. */
function rowAt(version: number, appendId: number): NamespaceRow {
  return {
    namespace_id: 1,
    name: "ns",
    last_seq: version,
    trimmed_seq: 0,
    last_time_ms: 0,
    retention_ms: null,
    create_time_ms: 0,
    deletion_count: 0,
    run_count: 0,
    running_count: 0,
    event_bytes: 0,
    cancel_count: 0,
    taken_count: 0,
    version,
    append_id: appendId,
    waiting_count: 0,
    signal_count: 0,
  };
}

describe("the history of a journal", () => {
  let history: History;

  beforeEach(() => {
    history = new History();
  });

  /** Reads the namespace; the database answers each time that it is asked as the test says. */
  function read(...answers: Promise<NamespaceRow>[]) {
    return history.read("ns", () => answers.shift()!);
  }

  it("went back where a slow read brings another one that is as long as what was seen meanwhile", async () => {
    history.note(rowAt(2, 20));
    const slow = Promise.withResolvers<NamespaceRow>();
    const restored = rowAt(3, 31);
    const reading = read(slow.promise, Promise.resolve(restored));
    history.note(rowAt(3, 30));
    slow.resolve(restored);
    assert.equal(await reading, restored);
    assert.equal(history.backsOf("ns"), 1);
    await read(Promise.resolve(restored));
    assert.equal(history.backsOf("ns"), 1);
  });

  it("did not go back where a slow read was only overtaken", async () => {
    history.note(rowAt(1, 10));
    const slow = Promise.withResolvers<NamespaceRow>();
    const reading = read(slow.promise);
    history.note(rowAt(3, 30));
    slow.resolve(rowAt(2, 20));
    await reading;
    assert.equal(history.backsOf("ns"), 0);
  });

  it("did not go back again where a slow read brings what was before", async () => {
    history.note(rowAt(2, 20));
    const slow = Promise.withResolvers<NamespaceRow>();
    const restored = rowAt(3, 31);
    const reading = read(slow.promise, Promise.resolve(restored));
    history.note(restored);
    slow.resolve(rowAt(3, 30));
    assert.equal(await reading, restored);
    assert.equal(history.backsOf("ns"), 0);
  });
});
