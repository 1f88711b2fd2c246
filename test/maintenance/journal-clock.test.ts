import assert from "node:assert/strict";
import { JournalClock, type Jump } from "../../src/maintenance/journal-clock.ts";

const second = 1_000;
const day = 24 * 3_600 * second;
const settleMs = 60 * second;
const pauseMs = 3_600 * second;

/** A machine whose clocks are moved by hand. */
class Machine {
  wallMs = 1_700_000_000_000;
  steadyMs = 5_000;
  uptimeMs = 9_000;
  readonly jumps: Jump[] = [];
  readonly clock = new JournalClock({
    wall: () => this.wallMs,
    steady: () => this.steadyMs,
    uptime: () => this.uptimeMs,
    settleMs,
    pauseMs,
    onJump: (jump) => this.jumps.push(jump),
  });

  run(ms: number): void {
    this.wallMs += ms;
    this.steadyMs += ms;
    this.uptimeMs += ms;
  }

  sleep(ms: number): void {
    this.wallMs += ms;
    this.uptimeMs += ms;
  }
}

describe("the journal's clock", () => {
  it("goes on as before through a jump of a day that is undone, and nothing is deleted by it", () => {
    const machine = new Machine();
    const startMs = machine.wallMs;
    machine.run(10 * second);
    assert.equal(machine.clock.steadyNow(), startMs + 10 * second);
    machine.wallMs += day;
    assert.equal(machine.clock.now(), startMs + 10 * second);
    assert.equal(machine.clock.steadyNow(), undefined);
    machine.run(15 * second);
    assert.equal(machine.clock.now(), startMs + 25 * second);
    machine.wallMs -= day;
    assert.equal(machine.clock.now(), startMs + 25 * second);
    assert.equal(machine.clock.steadyNow(), undefined);
    assert.deepEqual(machine.jumps, [
      { t: "seen", ms: day },
      { t: "undone", ms: day },
    ]);
    machine.run(pauseMs);
    assert.equal(machine.clock.steadyNow(), machine.wallMs);
  });

  for (const jumpMs of [day, -day]) {
    it(`follows a jump of ${jumpMs} ms that stays, and deletes nothing for a while`, () => {
      const machine = new Machine();
      machine.wallMs += jumpMs;
      assert.equal(machine.clock.now(), machine.wallMs - jumpMs);
      machine.run(settleMs - 1);
      assert.equal(machine.clock.now(), machine.wallMs - jumpMs);
      machine.run(1);
      assert.equal(machine.clock.now(), machine.wallMs);
      assert.deepEqual(machine.jumps, [
        { t: "seen", ms: jumpMs },
        { t: "believed", ms: jumpMs },
      ]);
      machine.run(pauseMs - 1);
      assert.equal(machine.clock.steadyNow(), undefined);
      machine.run(1);
      assert.equal(machine.clock.steadyNow(), machine.wallMs);
    });
  }

  it("is of whole milliseconds through a jump, whatever the steady clock counts", () => {
    const machine = new Machine();
    const startMs = machine.wallMs;
    machine.steadyMs += 0.345;
    machine.wallMs += day;
    for (let n = 1; n <= 10; n++) {
      machine.run(second + 0.25);
      machine.wallMs = Math.floor(machine.wallMs);
      assert.equal(machine.clock.now(), Math.floor(startMs + 0.345 + n * (second + 0.25)));
    }
  });

  it("follows at once where the machine slept", () => {
    const machine = new Machine();
    machine.sleep(day);
    assert.equal(machine.clock.steadyNow(), machine.wallMs);
    assert.deepEqual(machine.jumps, []);
  });

  it("takes no clock for one that jumped which is slowly drawn to the right time", () => {
    const machine = new Machine();
    for (let n = 0; n < 10_000; n++) {
      machine.run(second);
      machine.wallMs += 1;
      assert.equal(machine.clock.steadyNow(), machine.wallMs);
    }
    assert.deepEqual(machine.jumps, []);
  });

  it("begins to wait anew where the clock jumps again", () => {
    const machine = new Machine();
    machine.wallMs += day;
    machine.clock.now();
    machine.run(settleMs - 1);
    machine.wallMs += day;
    machine.clock.now();
    machine.run(settleMs - 1);
    assert.equal(machine.clock.now(), machine.wallMs - 2 * day);
  });
});
