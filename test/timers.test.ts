import assert from "node:assert/strict";
import { longestTimerMs, startTimer } from "../src/timers.ts";

describe("a timer", () => {
  it("that is to wait longer than Node can does not fire at once", async () => {
    const warnings: Error[] = [];
    const onWarning = (warning: Error) => warnings.push(warning);
    process.on("warning", onWarning);
    const fired: number[] = [];
    const timers = [longestTimerMs + 1, 2 ** 40, Number.POSITIVE_INFINITY].map((ms) =>
      startTimer((value: number) => fired.push(value), ms, ms),
    );
    // Node would make 1 ms of each.
    await new Promise<void>((resolve) => startTimer(resolve, 5));
    for (const timer of timers) clearTimeout(timer);
    process.off("warning", onWarning);
    assert.deepEqual([fired, warnings], [[], []]);
  });
});
