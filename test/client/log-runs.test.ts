/** Runs as an agent's author has them: `connect`, `startRun`, `withRun`. */
import assert from "node:assert/strict";
import {
  type DroppedEvent,
  type LogRecord,
  type Run,
  RunCancelledError,
  RunlogError,
  type RunStateName,
  SenderClosedError,
  SignalsPendingError,
} from "../../src/client/index.ts";
import { chosenSeed, randomOf } from "../crash/random.ts";
import { randomCuts } from "./breaking-proxy.ts";
import { backoff, LogRig, producingWires } from "./log-rig.ts";

/** Resolves once a signal has aborted. */
const abortOf = (signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });

const isRefused = (reason: string) => (error: unknown) => {
  assert.ok(error instanceof RunlogError, String(error));
  assert.equal(error.reason, reason);
  return true;
};

for (const wire of producingWires) {
  describe(`runs of a log over ${wire.name}`, () => {
    const seed = chosenSeed();
    let rig: LogRig;

    beforeEach(async () => {
      rig = await LogRig.start();
    });

    afterEach(() => rig.close());

    const endOf = async ({ runId }: Run) => {
      const { state, failure, suppressed, output } = await rig.connect().run(runId);
      return { state, failure, suppressed, output };
    };

    it("record JSON, text and bytes, and what belongs to them", async () => {
      const log = rig.connect(wire);
      const run = log.startRun({ agent: "planner", labels: { team: "a" } });
      const time = new Date(86_400_000);
      assert.ok(run.emit("json", { steps: [1, null, "ü"] }, { attributes: { a: "b" }, time }));
      assert.ok(run.emit("text", "hello ü"));
      assert.ok(run.emit("bytes", new Uint8Array([0, 255])));
      assert.ok(run.emit("nothing"));
      assert.ok(run.emit("typed", new Uint8Array([1]), { contentType: "image/png" }));
      const { run: ended, durable, dropped } = await run.finish({ ok: true });
      assert.deepEqual([ended.state, durable, dropped, run.state], ["SUCCEEDED", 5, 0, "ended"]);
      assert.deepEqual([ended.agent, ended.labels], ["planner", { team: "a" }]);
      assert.deepEqual(ended.output?.json(), { ok: true });
      const records = await rig.replay();
      const [json, text, bytes, empty, typed] = records.filter(({ kind }) => kind === "event");
      assert.deepEqual(json?.json(), { steps: [1, null, "ü"] });
      assert.deepEqual([json?.attributes, json?.time], [{ a: "b" }, time]);
      assert.equal(text?.text(), "hello ü");
      assert.deepEqual([...(bytes?.bytes ?? [])], [0, 255]);
      assert.deepEqual([empty?.bytes.length, empty?.json()], [0, undefined]);
      assert.deepEqual(
        [json, text, bytes, empty, typed].map((one) => one?.contentType),
        ["application/json", "text/plain", "application/octet-stream", "", "image/png"],
      );
    });

    it(`lose and double nothing where connections break and the server restarts (RUNLOG_TEST_SEED=${seed})`, async () => {
      const random = randomOf(seed);
      rig.proxy.newFault = randomCuts((min, max) => random.between(min, max));
      const log = rig.connect(wire, rig.proxy.url);
      const run = log.startRun();
      const child = run.child();
      const types = Array.from({ length: 3_000 }, (_, at) => `e${at}`);
      for (const [at, type] of types.entries()) {
        await run.emitAsync(type, { at });
        await child.emitAsync(type, "x".repeat(50));
        if (at === 1_500) await rig.restart();
      }
      await Promise.all([run.finish(), child.finish()]);
      assert.ok(rig.proxy.cuts > 0);
      assert.deepEqual(await rig.typesOf(run), types);
      assert.deepEqual(await rig.typesOf(child), types);
    });

    it("end as SUCCEEDED with a body that returns", async () => {
      let run: Run | undefined;
      const value = await rig.connect(wire).withRun({ agent: "a" }, async (started) => {
        run = started;
        run.emit("step");
        return 7;
      });
      assert.equal(value, 7);
      assert.equal((await endOf(run!)).state, "SUCCEEDED");
    });

    it("end as FAILED with what a body throws first, and what its cleanup throws as suppressed", async () => {
      let run: Run | undefined;
      const first = Object.assign(new Error("no disk"), { code: "ENOSPC" });
      const body = async (started: Run) => {
        run = started;
        await using _ = {
          async [Symbol.asyncDispose]() {
            throw new TypeError("no lock");
          },
        };
        throw first;
      };
      await assert.rejects(rig.connect(wire).withRun({}, body), (error) => {
        assert.ok(error instanceof SuppressedError);
        assert.equal(error.suppressed, first);
        return true;
      });
      const { state, failure, suppressed } = await endOf(run!);
      assert.deepEqual([state, failure?.code, failure?.message], ["FAILED", "ENOSPC", "no disk"]);
      assert.match(failure?.detail ?? "", /log-runs\.test/);
      assert.deepEqual(
        suppressed.map(({ code, message }) => [code, message]),
        [["TypeError", "no lock"]],
      );
    });

    it("end as CANCELLED where somebody asked for it, however the body ends", async () => {
      const log = rig.connect(wire);
      const bodies: Readonly<Record<string, (run: Run) => unknown>> = {
        returns: () => "partial",
        "throws the reason": (run) => run.aborted.throwIfAborted(),
        "throws something else": () => {
          throw new Error("request aborted");
        },
      };
      for (const [name, body] of Object.entries(bodies)) {
        let run: Run | undefined;
        const ended = log.withRun({}, async (started) => {
          run = started;
          await run.opened;
          assert.equal(await log.cancel(run.runId, { reason: "over budget" }), 1);
          await abortOf(run.aborted);
          const { reason } = run.aborted;
          assert.ok(reason instanceof RunCancelledError && reason.reason === "over budget", name);
          return body(started);
        });
        if (name === "returns") assert.equal(await ended, "partial");
        else await assert.rejects(ended);
        const { state, failure, suppressed } = await endOf(run!);
        assert.deepEqual([state, failure], ["CANCELLED", undefined], name);
        const messages = suppressed.map(({ message }) => message);
        assert.deepEqual(messages, name === "throws something else" ? ["request aborted"] : []);
      }
    });

    it("end as their body says, where it ends them", async () => {
      let run: Run | undefined;
      await rig.connect(wire).withRun({}, (started) => {
        run = started;
        void run.fail({ code: "budget", message: "too little money" });
      });
      const { state, failure } = await endOf(run!);
      assert.deepEqual([state, failure?.code], ["FAILED", "budget"]);
    });

    it("record failures that no server would take as they are", async () => {
      const log = rig.connect(wire);
      const causes = [new Error("\ud800 and \0"), "text", undefined, null, { toString: 1 }];
      const huge = new Error("x".repeat(2_000_000), { cause: new Error("y".repeat(2_000_000)) });
      const many = Array.from({ length: 1_000 }, () => huge);
      for (const error of [...causes, huge]) {
        const run = log.startRun();
        await run.fail(error, { suppressed: error === huge ? many : [] });
        assert.equal((await endOf(run)).state, "FAILED");
      }
      await rig.restart({ limits: { maxEventBytes: 4_096 } });
      const run = log.startRun();
      await run.opened;
      await run.fail(huge, { suppressed: many });
      const { state, failure, suppressed } = await endOf(run);
      assert.deepEqual([state, failure?.code, suppressed], ["FAILED", "Error", []]);
    });

    it("go on after a result that cannot be recorded", async () => {
      const run = rig.connect(wire).startRun();
      const cycle: { self?: unknown } = {};
      cycle.self = cycle;
      await assert.rejects(run.finish(cycle), TypeError);
      await assert.rejects(run.finish("x".repeat(3_000_000)), isRefused("TOO_LARGE"));
      assert.ok(run.emit("more"));
      assert.equal((await run.finish()).durable, 1);
    });

    it("never throw from emit, and tell what is dropped", async () => {
      const drops: DroppedEvent[] = [];
      const log = rig.connect(wire);
      const limits = { backoff, maxBufferedEvents: 3 };
      const run = log.startRun({ onDrop: (drop) => drops.push(drop), limits });
      const cycle: { self?: unknown } = {};
      cycle.self = cycle;
      const invalid: readonly boolean[] = [
        run.emit("cycle", cycle),
        run.emit("bigint", { n: 1n }),
        run.emit("function", () => {}),
        run.emit("time", 1, { time: new Date(Number.NaN) }),
        run.emit(""),
        run.emit("attributes", 1, { attributes: { "": "x" } }),
        await run.emitAsync("cycle", cycle),
      ];
      assert.deepEqual(invalid, Array(7).fill(false));
      assert.deepEqual(
        drops.map(({ reason }) => reason),
        Array(7).fill("invalid"),
      );
      assert.match(drops[1]?.problem ?? "", /BigInt/);
      assert.ok(run.emit("a") && run.emit("b"));
      assert.equal(run.emit("large", "x".repeat(3_000_000)), false);
      assert.ok(run.emit("c"));
      assert.equal(run.emit("full"), false);
      const { durable, dropped } = await run.finish();
      assert.equal(run.emit("late"), false);
      const last = drops.slice(7).map(({ reason, type }) => `${reason} ${type}`);
      assert.deepEqual(last, ["too_large large", "overflow full", "ended late"]);
      assert.deepEqual([durable, dropped, run.dropped], [3, 9, 10]);
      assert.ok(drops.every(({ runId }) => runId === run.runId));
    });

    it("keep the order of emitAsync, wait for room and lose nothing", async () => {
      const limits = { backoff, maxBufferedEvents: 4 };
      const run = rig.connect(wire).startRun({ limits });
      const types = Array.from({ length: 300 }, (_, at) => `e${at}`);
      const data = { n: 1 };
      const taken = types.map((type) => run.emitAsync(type, data));
      data.n = 2;
      // The end waits for them.
      const { durable } = await run.finish();
      assert.deepEqual(await Promise.all(taken), Array(300).fill(true));
      assert.equal(durable, 300);
      assert.deepEqual(await rig.typesOf(run), types);
      const events = (await rig.replay()).filter(({ kind }) => kind === "event");
      assert.ok(events.every((event) => event.json<typeof data>().n === 1));
    });

    it("hand on signals, which count as handled when the producer says so", async () => {
      const log = rig.connect(wire);
      const run = log.startRun();
      await run.opened;
      for (const n of [1, 2, 3]) await log.signal(run.runId, "say", { n }, { id: `s${n}` });
      await log.signal(run.runId, "say", { n: 3 }, { id: "s3" });
      const pending = async () => (await log.run(run.runId)).pendingSignals;
      const seen: unknown[] = [];
      for await (const signal of run.signals) {
        seen.push([signal.id, signal.type, signal.json()]);
        if (signal.signalSeq === 1) {
          // An event that has nothing to do with it handles nothing.
          run.emit("working");
          await run.flush();
          assert.equal(await pending(), 3);
          run.emit("answer", "one", { handles: signal });
          await run.flush();
          assert.equal(await pending(), 2);
        }
        if (signal.signalSeq === 2) break;
      }
      for await (const signal of run.signals) {
        seen.push([signal.id, signal.type, signal.json()]);
        await assert.rejects(
          run.finish(undefined, { requireSignalsHandled: true }),
          SignalsPendingError,
        );
        signal.handled();
        break;
      }
      assert.deepEqual(
        seen,
        [1, 2, 3].map((n) => [`s${n}`, "say", { n }]),
      );
      await run.finish(undefined, { requireSignalsHandled: true });
      assert.equal(await pending(), 0);
    });

    it("wait for an answer, and take one that has come before", async () => {
      const log = rig.connect(wire);
      const run = log.startRun();
      const deadline = new Date(Date.now() + 3_600_000);
      const answer = run.waitFor("approval", { text: "Delete them?" }, { deadline });
      for await (const record of log.follow({ run: run.runId }, { allowMissing: true })) {
        if (record.kind !== "waiting") continue;
        assert.deepEqual([record.code, record.json()], ["approval", { text: "Delete them?" }]);
        assert.deepEqual(record.deadline, deadline);
        break;
      }
      assert.equal((await log.run(run.runId)).waiting?.code, "approval");
      await log.signal(run.runId, "approval", { approved: true });
      const signal = await answer;
      assert.deepEqual(signal.json(), { approved: true });
      // It is taken, and not handled: the run cannot wait.
      await assert.rejects(run.waitFor("more"), SignalsPendingError);
      run.emit("deleted", undefined, { handles: signal });
      await log.signal(run.runId, "note", "too early");
      assert.equal((await run.waitFor("more")).text(), "too early");
      await log.cancel(run.runId);
      await abortOf(run.aborted);
      await assert.rejects(run.waitFor("again"), RunCancelledError);
      for await (const one of run.signals) assert.fail(`${one.type} came after the end`);
      await run.cancelled();
    });

    it("can be children of one that is not durable yet", async () => {
      rig.proxy.newFault = () => () => "swallow";
      const parent = rig
        .connect(wire, rig.proxy.url)
        .startRun({ limits: { backoff, openTimeoutMs: 200 } });
      const states: string[] = [];
      const log = rig.connect(wire);
      const child = log.startRun({ parent, onState: (state) => states.push(state) });
      child.emit("early");
      // This one is open long before the parent could be.
      await log.startRun().finish();
      assert.deepEqual([parent.state, child.state, states], ["connecting", "connecting", []]);
      rig.proxy.newFault = () => () => "forward";
      rig.proxy.cutAll();
      await child.finish();
      await parent.finish();
      assert.equal((await log.run(child.runId)).parent, parent.runId);
    });

    it("tell that another producer has taken the run, by a name", async () => {
      const errors: string[] = [];
      const onError = (error: Error, runId: string) => {
        assert.ok(error instanceof RunlogError);
        errors.push(`${runId} ${error.reason}`);
      };
      const log = rig.connect(wire, undefined, { onError });
      const first = log.startRun({ runId: "r" });
      await first.opened;
      const second = rig.connect(wire).resumeRun("r");
      await abortOf(first.aborted);
      assert.ok(isRefused("FENCED")(first.aborted.reason));
      assert.deepEqual([first.state, first.error], ["failed", first.aborted.reason]);
      await assert.rejects(first.finish(), isRefused("FENCED"));
      const other = log.startRun({ runId: "r", agent: "another" });
      await assert.rejects(other.finish(), isRefused("RUN_EXISTS"));
      assert.deepEqual(errors, ["r FENCED", "r RUN_EXISTS"]);
      await second.finish();
    });

    it("tell of an outage once", async () => {
      const states: string[] = [];
      const log = rig.connect(wire, rig.proxy.url);
      const run = log.startRun({ onState: (state) => states.push(state) });
      await run.opened;
      await rig.server.drain();
      const tries = 5;
      let attempts = 0;
      const tried = Promise.withResolvers<void>();
      rig.proxy.newFault = () => {
        if (++attempts === tries) tried.resolve();
        return () => "cut";
      };
      run.emit("kept");
      await tried.promise;
      rig.proxy.newFault = () => () => "forward";
      await rig.restart();
      await run.finish();
      assert.deepEqual(states, ["open", "reconnecting", "open", "ended"]);
      assert.deepEqual(await rig.typesOf(run), ["kept"]);
    });

    it("are left as they are when the log is closed, after what they emitted", async () => {
      const log = rig.connect(wire);
      const run = log.startRun();
      run.emit("last");
      const following = log.follow({ all: true });
      const records: LogRecord[] = [];
      const followed = (async () => {
        for await (const record of following) records.push(record);
      })();
      await run.flush();
      await log.close();
      await followed;
      assert.deepEqual([following.status, run.state], ["ended", "closed"]);
      assert.deepEqual(await rig.typesOf(run), ["last"]);
      assert.equal((await endOf(run)).state, "RUNNING");
      assert.throws(() => log.startRun(), SenderClosedError);
      const again = rig.connect(wire).resumeRun(run.runId);
      again.emit("more");
      await again.finish();
      assert.deepEqual(await rig.typesOf(run), ["last", "more"]);
    });

    it("fork, and go on", async () => {
      const log = rig.connect(wire);
      const run = log.startRun({ agent: "a" });
      for (const type of ["one", "two", "three"]) run.emit(type);
      await run.finish();
      const { fork, runId, state } = await log.fork(run.runId, { at: 2, agent: "b" });
      assert.deepEqual([fork, state], [{ runId: run.runId, runSeq: 2 }, "RUNNING"]);
      const second = log.resumeRun(runId);
      second.emit("other");
      await second.finish();
      const types: string[] = [];
      const options = { until: "finished" } as const;
      for await (const record of log.follow({ run: runId, inherited: true }, options)) {
        if (record.kind === "event") types.push(record.type);
      }
      assert.deepEqual(types, ["one", "two", "other"]);
    });

    it("are listed, page by page", async () => {
      const log = rig.connect(wire);
      const parent = log.startRun({ runId: "parent", conversation: "c" });
      const children = Array.from({ length: 5 }, (_, at) =>
        parent.child({ runId: `child-${at}`, agent: at % 2 === 0 ? "even" : "odd" }),
      );
      for (const child of children) await child.finish();
      const list = log.runs({ family: "parent", pageSize: 2 });
      const ids = (await list.toArray()).map(({ runId }) => runId);
      assert.deepEqual(ids, ["child-4", "child-3", "child-2", "child-1", "child-0"]);
      assert.ok(list.asOfSeq !== undefined && list.asOfSeq >= 11);
      const idsOf = async (...filter: Parameters<typeof log.runs>) =>
        (await log.runs(...filter).toArray()).map(({ runId }) => runId);
      assert.deepEqual(await idsOf({ agent: "odd" }), ["child-3", "child-1"]);
      assert.deepEqual(await idsOf({ states: ["RUNNING"] }), ["parent"]);
      assert.deepEqual(await idsOf({ conversation: "c" }), ["parent"]);
      assert.deepEqual(await idsOf({ idPrefix: "child-1" }), ["child-1"]);
      await parent.finish();
    });
  });
}

describe("the types of a run", () => {
  it("know no result that a run cannot have", () => {
    const uses = (run: Run, state: RunStateName) => [
      // @ts-expect-error a failure needs an error
      () => run.fail(),
      // @ts-expect-error success has no failure
      () => run.finish(undefined, { suppressed: [] }),
      // @ts-expect-error JSON has no bigint
      () => run.emit("n", 1n),
      // @ts-expect-error a state is a name
      () => state === 1,
    ];
    assert.ok(uses);
  });
});
