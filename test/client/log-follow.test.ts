/** Following as a front end's author has it: `log.follow`. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type Cursor,
  type FollowStatus,
  type LogRecord,
  RunlogError,
} from "../../src/client/index.ts";
import { chosenSeed, randomOf } from "../crash/random.ts";
import { backoff, followingWires, LogRig } from "./log-rig.ts";

const isRefused = (reason: string) => (error: unknown) => {
  assert.ok(error instanceof RunlogError, String(error));
  assert.equal(error.reason, reason);
  return true;
};

/** Reads to the end of a loop. */
async function collect(records: AsyncIterable<LogRecord>): Promise<LogRecord[]> {
  const collected: LogRecord[] = [];
  for await (const record of records) collected.push(record);
  return collected;
}

const seqsOf = (records: readonly LogRecord[]) => records.map(({ seq }) => seq);
const upTo = (count: number) => Array.from({ length: count }, (_, at) => at + 1);

for (const wire of followingWires) {
  describe(`following a log over ${wire.name}`, () => {
    const seed = chosenSeed();
    let rig: LogRig;

    beforeEach(async () => {
      rig = await LogRig.start();
    });

    afterEach(() => rig.close());

    /** A whole run: its start, its events and its end, so events + 2 records. */
    const record = async (events: number, runId?: string) => {
      const run = rig.connect().startRun({ runId, agent: "a" });
      const x = "x".repeat(100);
      for (let n = 1; n <= events; n++) await run.emitAsync(n % 2 === 0 ? "even" : "odd", { n, x });
      return run.finish("done");
    };

    it("yields plain records, told apart by their kind", async () => {
      const log = rig.connect(wire);
      const producer = rig.connect();
      const run = producer.startRun({ runId: "r", agent: "a", labels: { l: "v" } });
      run.emit("plan", { steps: 3 });
      const answer = run.waitFor("approval", "sure?");
      for await (const { kind } of log.follow({ run: "r" }, { allowMissing: true })) {
        if (kind === "waiting") break;
      }
      await log.signal("r", "approval", true, { id: "s", attributes: { by: "me" } });
      run.emit("acted", undefined, { handles: await answer });
      await run.fail({ code: "c", message: "m" });
      const records = await collect(log.follow({ family: "r" }, { until: "finished" }));
      assert.deepEqual(seqsOf(records), upTo(7));
      const kinds = ["started", "event", "waiting", "signal", "resumed", "event", "finished"];
      assert.deepEqual(
        records.map(({ kind }) => kind),
        kinds,
      );
      const [started, plan, waiting, signal, , acted, finished] = records;
      assert.ok(started?.kind === "started");
      assert.deepEqual(
        [started.run.agent, started.run.labels, started.depth],
        ["a", { l: "v" }, 0],
      );
      assert.ok(plan?.kind === "event");
      assert.deepEqual(
        [plan.runId, plan.runSeq, plan.type, plan.json()],
        ["r", 1, "plan", { steps: 3 }],
      );
      assert.ok(waiting?.kind === "waiting");
      assert.deepEqual([waiting.code, waiting.text()], ["approval", "sure?"]);
      assert.ok(signal?.kind === "signal");
      const { signalId, signalSeq, attributes } = signal;
      assert.deepEqual(
        [signalId, signalSeq, attributes, signal.json()],
        ["s", 1, { by: "me" }, true],
      );
      assert.deepEqual([acted?.runSeq, acted?.json()], [2, undefined]);
      assert.ok(finished?.kind === "finished");
      assert.deepEqual([finished.state, finished.failure?.code], ["FAILED", "c"]);
      assert.ok(
        records.every(({ time, recordTime }) => time instanceof Date && recordTime instanceof Date),
      );
      // There is no bigint in them, which JSON would not take.
      assert.equal(JSON.parse(JSON.stringify(records)).length, 7);
    });

    it(`yields each record once and in order, where connections break and the server restarts (RUNLOG_TEST_SEED=${seed})`, async () => {
      const random = randomOf(seed);
      const events = 6_000;
      let connections = 0;
      rig.proxy.newFault = () => {
        // It grows, so that the largest frame comes through.
        let bytes = random.between(5_000, 20_000 * ++connections);
        return (from, { length }) => {
          if (from === "server") bytes -= length;
          return bytes <= 0 ? "cut" : "forward";
        };
      };
      const log = rig.connect(wire, rig.proxy.url);
      const following = log.follow(
        { run: "r" },
        { allowMissing: true, until: "finished", backoff },
      );
      const statuses: FollowStatus[] = [];
      following.onStatus((status) => statuses.push(status));
      const records: LogRecord[] = [];
      const producing = record(events, "r");
      for await (const one of following) {
        assert.deepEqual(following.cursor?.seq, one.seq);
        assert.ok(!["ended", "failed"].includes(following.status));
        if (records.push(one) === events / 2) await rig.restart();
      }
      await producing;
      assert.ok(rig.proxy.cuts > 0 && statuses.includes("reconnecting"), statuses.join());
      assert.deepEqual(
        records.filter(({ kind }) => kind === "event").map(({ runSeq }) => runSeq),
        upTo(events),
      );
      assert.deepEqual(seqsOf(records), seqsOf(await rig.replay()));
      assert.deepEqual(
        [statuses.at(-1), statuses.filter((one) => one === "ended")],
        ["ended", ["ended"]],
      );
    });

    it("goes on after a cursor that was saved, with any filter", async () => {
      await record(20, "r");
      const log = rig.connect(wire);
      const first = log.follow({ all: true });
      for await (const record of first) if (record.seq === 7) break;
      assert.equal(first.status, "ended");
      const cursor = JSON.parse(JSON.stringify(first.cursor)) as Cursor;
      assert.equal(cursor.seq, 7);
      const until = "caught-up";
      const rest = await collect(log.follow({ all: true }, { after: cursor, until }));
      assert.deepEqual(seqsOf(rest), upTo(22).slice(7));
      const bySeq = await collect(log.follow({ run: "r" }, { after: 20, until }));
      assert.deepEqual(seqsOf(bySeq), [21, 22]);
      const foreign = log.follow({ all: true }, { after: { seq: 7, journalId: "another" }, until });
      await assert.rejects(collect(foreign), isRefused("JOURNAL_CHANGED"));
      assert.equal(foreign.status, "failed");
      assert.ok(isRefused("JOURNAL_CHANGED")(foreign.error));
    });

    it("moves its cursor where nothing matches", async () => {
      await record(20);
      const log = rig.connect(wire);
      const types = ["no such type"];
      const kinds = ["event"] as const;
      const quiet = log.follow({ all: true }, { types, kinds, until: "caught-up" });
      assert.equal(log.follow({ all: true }).cursor, undefined);
      assert.deepEqual(await collect(quiet), []);
      assert.equal(quiet.cursor?.seq, 22);
      const live = log.follow({ all: true }, { types, kinds, progressIntervalMs: 1_000 });
      const reading = collect(live);
      await record(20);
      while (live.cursor?.seq !== 44) await sleep(20);
      live.stop();
      assert.deepEqual(await reading, []);
    });

    it("begins where it is asked to, and chooses", async () => {
      await record(20, "r");
      const log = rig.connect(wire);
      const until = "caught-up";
      const seqs = async (...what: Parameters<typeof log.follow>) =>
        seqsOf(await collect(log.follow(what[0], { until, ...what[1] })));
      assert.deepEqual(await seqs({ all: true }, { last: 3 }), [20, 21, 22]);
      assert.deepEqual(
        await seqs({ all: true }, { last: 2, types: ["odd"], kinds: ["event"] }),
        [18, 20],
      );
      assert.deepEqual(await seqs({ all: true }, { kinds: ["lifecycle"] }), [1, 22]);
      assert.deepEqual(
        await seqs({ runs: ["r"] }, { kinds: ["event"], types: ["ev*"], last: 1 }),
        [21],
      );
      assert.deepEqual(await seqs({ all: true }, { since: new Date(0) }), upTo(22));
      assert.deepEqual(await seqs({ all: true }, { since: new Date(Date.now() + 3_600_000) }), []);
      assert.deepEqual(await seqs({ family: "r", self: false }), []);
      assert.throws(() => log.follow({ all: true }, { last: 1, after: 1 }), TypeError);
      assert.throws(() => log.follow({ all: true }, { after: -1 }), TypeError);
      const runs = Array.from({ length: 101 }, (_, at) => `r${at}`);
      await assert.rejects(collect(log.follow({ runs })), isRefused("RUN_ID_LIMIT"));
      await assert.rejects(collect(log.follow({ run: "unknown" })), isRefused("RUN_NOT_FOUND"));
    });

    it("yields batches of the same records", async () => {
      await record(1_000);
      const following = rig.connect(wire).follow({ all: true }, { until: "caught-up" });
      const seqs: number[] = [];
      for await (const batch of following.batches()) {
        assert.ok(batch.length > 0);
        seqs.push(...seqsOf(batch));
        assert.equal(following.cursor?.seq, seqs.at(-1));
      }
      assert.deepEqual(seqs, upTo(1_002));
    });

    it("tells where it stands, and never that a lost connection is an end", async () => {
      await record(1, "r");
      const log = rig.connect(wire, rig.proxy.url);
      const statuses: FollowStatus[] = [];
      const changes: (() => void)[] = [];
      const following = log.follow(
        { all: true },
        {
          backoff,
          onStatus(status) {
            statuses.push(status);
            for (const change of changes.splice(0)) change();
            throw new Error("a listener's own fault, which concerns nobody else");
          },
        },
      );
      const until = async (status: FollowStatus) => {
        while (following.status !== status) {
          await new Promise<void>((resolve) => changes.push(resolve));
        }
      };
      const reading = collect(following);
      assert.equal(following.status, "connecting");
      await until("live");
      await rig.server.drain();
      rig.proxy.cutAll();
      await until("reconnecting");
      await rig.restart();
      await until("live");
      assert.equal(following.error, undefined);
      following.stop();
      assert.deepEqual(seqsOf(await reading), [1, 2, 3]);
      // What happens in between is one outage.
      const compact = statuses.filter((one, at) => at < 3 || one !== "catching-up");
      assert.deepEqual(compact.slice(0, 3), ["catching-up", "live", "reconnecting"]);
      assert.deepEqual(statuses.slice(-2), ["live", "ended"]);
      assert.equal(statuses.filter((one) => one === "ended").length, 1);
    });

    it("stays stopped, whatever comes", async () => {
      await record(100);
      const log = rig.connect(wire, rig.proxy.url);
      // In the middle of a batch.
      const first = log.follow({ all: true });
      const seen: number[] = [];
      for await (const { seq } of first) {
        seen.push(seq);
        if (seq === 3) first.stop();
      }
      assert.deepEqual(seen, [1, 2, 3]);
      // While it is reconnecting.
      const stop = new AbortController();
      const statuses: FollowStatus[] = [];
      const second = log.follow(
        { all: true },
        {
          backoff,
          signal: stop.signal,
          onStatus(status) {
            statuses.push(status);
            if (status === "live") {
              rig.proxy.newFault = () => () => "cut";
              rig.proxy.cutAll();
            }
            if (status === "reconnecting") stop.abort();
          },
        },
      );
      assert.equal((await collect(second)).length, 102);
      assert.deepEqual(statuses, ["catching-up", "live", "reconnecting", "ended"]);
      rig.proxy.newFault = () => () => "forward";
      // Others get what comes now; these do not.
      await record(1);
      const third = log.follow({ all: true }, { until: "caught-up", backoff });
      assert.equal((await collect(third)).length, 105);
      assert.deepEqual([first.status, second.status, statuses.length], ["ended", "ended", 4]);
      await assert.rejects(collect(second), TypeError);
      // Before it began.
      const never = log.follow({ all: true });
      never.stop();
      assert.deepEqual([await collect(never), never.status], [[], "ended"]);
    });
  });
}
