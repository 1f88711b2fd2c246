import assert from "node:assert/strict";
import type { Journal } from "../../src/journal/journal.ts";
import { RefusedError } from "../../src/refusal.ts";
import { journalKinds, type TestServer } from "../support/server.ts";

const databaseWaitMs = 3_600_000;

describe("a node whose database is away", () => {
  const { now } = performance;
  /** How far the steady clock is ahead of the machine's. */
  let aheadMs = 0;
  let isAway = false;
  /** Writes that failed while the database was away: the node's beats, for nobody calls. */
  let failures = 0;
  let server: TestServer;

  before(async () => {
    performance.now = () => now.call(performance) + aheadMs;
    const wrapJournal = (journal: Journal): Journal => ({
      ...journal,
      write(work, withinMs) {
        if (!isAway) return journal.write(work, withinMs);
        failures++;
        return Promise.reject(new RefusedError({ reason: "journal_unavailable" }));
      },
    });
    const limits = { databaseWaitMs, nodeTimeoutMs: 1_000 };
    server = await journalKinds["PostgreSQL"]!({ limits, wrapJournal });
  });

  after(async () => {
    isAway = false;
    await server.remove();
    performance.now = now;
  });

  const readyz = async () => (await fetch(`${server.url}/readyz`)).status;

  /** Asks until the node answers so; the test's time is the bound. */
  async function becomes(status: number): Promise<void> {
    while ((await readyz()) !== status);
  }

  /** Resolves once the node has missed its database once more. */
  async function missed(): Promise<void> {
    const before = failures;
    while (failures === before) await new Promise((resolve) => setImmediate(resolve));
  }

  it("is ready for as long as calls wait for it, not longer, and again once it is back", async () => {
    await becomes(200);
    isAway = true;
    await missed();
    assert.equal(await readyz(), 200);
    aheadMs += databaseWaitMs / 2;
    await missed();
    assert.equal(await readyz(), 200, "an outage of half the time that calls wait");
    aheadMs += databaseWaitMs;
    await becomes(503);
    isAway = false;
    await becomes(200);
  });
});
