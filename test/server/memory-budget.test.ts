/** One ceiling, with a share for each class of memory. */
import assert from "node:assert/strict";
import { MemoryBudget } from "../../src/memory-budget.ts";

describe("the process's memory", () => {
  // Shares: messages 40, appends 40, frames 20, pages 10, subscriptions 10; tail 5; common 35.
  const total = 160;

  it("is a share for each class, and the rest for whoever needs it first", () => {
    const { messages, appends, pages } = new MemoryBudget(total);
    assert.equal(appends.freeBytes, 75);
    assert.ok(appends.tryTake(70));
    assert.ok(!appends.tryTake(6));
    // What others have of their own is not touched.
    assert.ok(messages.tryTake(40));
    assert.ok(messages.tryTake(5));
    assert.ok(!messages.tryTake(1));
    assert.ok(pages.tryTake(10));
    assert.ok(!pages.tryTake(1));
    appends.give(35);
    assert.equal(pages.freeBytes, 30);
  });

  it("is the tail's where nobody needs it", () => {
    const told: number[] = [];
    const { appends, frames } = new MemoryBudget(total, (bytes) => told.push(bytes));
    appends.take(40);
    assert.deepEqual(told, [40]);
    appends.take(30);
    frames.take(40);
    appends.take(1);
    frames.give(40);
    appends.give(71);
    assert.deepEqual(told, [40, 10, 5, 5, 9, 40]);
  });

  it("takes memory back from the longest hold first", () => {
    const { messages } = new MemoryBudget(total);
    const evicted: string[] = [];
    const holdOf = (name: string) => messages.hold(() => evicted.push(name));
    const [first, second, third] = ["first", "second", "third"].map(holdOf);
    first!.set(30);
    second!.set(30);
    first!.set(35);
    second!.release();
    second!.set(35);
    third!.set(5);
    assert.deepEqual(evicted, []);
    third!.set(10);
    assert.deepEqual(evicted, ["first"]);
    assert.equal(messages.usedBytes, 45);
    // One that needs all of it and more is refused itself, behind the others.
    third!.set(100);
    assert.deepEqual(evicted, ["first", "second", "third"]);
    assert.equal(messages.usedBytes, 0);
  });

  it("is waited for, and not longer than those who hold it may", async () => {
    const { frames } = new MemoryBudget(total);
    const evicted: string[] = [];
    frames.hold(() => evicted.push("stuck")).set(50);
    frames.hold(() => evicted.push("slow")).set(15);
    // Neither has held it for long.
    assert.deepEqual([evicted, frames.isOver], [[], true]);
    await frames.untilRoom();
    assert.deepEqual([evicted, frames.usedBytes], [["stuck"], 15]);
    await frames.untilRoom();
  });
});
