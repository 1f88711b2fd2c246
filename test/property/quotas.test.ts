/** An identity counts for what it has, and for nothing once it left; no identity counts for another. */
import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { IngestRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import type { SubscriptionSpec } from "../../src/delivery/subscription-spec.ts";
import { Watch } from "../../src/delivery/watch.ts";
import { noQuotas, Quotas, type Usage } from "../../src/quotas.ts";
import { Connection } from "../support/connection.ts";
import { engineOver, openRun, subscriptionTo } from "../support/engine.ts";
import { assertHistories } from "../support/histories.ts";
import { describeJournal, type TestJournal } from "../support/journals.ts";
import { append, finish, open, type Request, release } from "../support/producer.ts";

const identities = ["a", "b"];
const streamsEach = 2;
const runCount = 5;
const limits = { ...noQuotas, openRuns: 2, subscriptions: 2 };

/** Whatever needs no commit has been told. */
const settled = () => new Promise<void>((resolve) => void setImmediate(resolve));

const stream = fc.nat(identities.length * streamsEach - 1);
const run = fc.nat(runCount - 1);
type Kind = "open" | "append" | "finish" | "release" | "lose" | "close" | "settle";
const kind: fc.Arbitrary<Kind> = fc.oneof(
  { weight: 6, arbitrary: fc.constant<Kind>("open") },
  { weight: 5, arbitrary: fc.constantFrom<Kind>("append", "finish", "release", "settle") },
  { weight: 1, arbitrary: fc.constantFrom<Kind>("lose", "close") },
);
const step = fc.record({ kind, stream, run });

const requests: Readonly<Partial<Record<Kind, (runId: string) => Request>>> = {
  open: (runId) => open(runId, {}),
  append: (runId) => append(runId, 1, "event"),
  finish: (runId) => finish(runId, 0, { state: RunState.SUCCEEDED }),
  release,
};

/** The runs that a stream has opened. */
function heldBy({ frames }: Connection): number {
  const held = new Set<string>();
  for (const frame of frames) {
    if (frame.t === "opened") held.add(frame.runId);
    if (frame.t === "rejected" || frame.t === "released") held.delete(frame.runId);
    if (frame.t === "ended") held.delete(frame.run.run_id);
  }
  return held.size;
}

describeJournal("quotas", (openJournal, backend) => {
  let store: TestJournal;
  beforeEach(async () => {
    store = await openJournal();
  });
  afterEach(() => store.remove());

  it("count the open runs of an identity, whatever ends them, and none once it has gone", async () => {
    const engine = engineOver(store.journal);
    let history = 0;
    await assertHistories(
      backend.histories(150),
      [fc.array(step, { minLength: 5, maxLength: 60 })],
      async (steps) => {
        history++;
        const quotas = new Quotas();
        const usageOf = (at: number): Usage =>
          quotas.of(identities[Math.floor(at / streamsEach)]!, limits);
        const connect = (at: number) => new Connection({ ...engine, usage: usageOf(at) });
        const count = identities.length * streamsEach;
        const connections = Array.from({ length: count }, (_, at) => connect(at));
        const check = async () => {
          await engine.committer.idle();
          await settled();
          for (const [index, identity] of identities.entries()) {
            const own = connections.slice(index * streamsEach, (index + 1) * streamsEach);
            const held = own.reduce((sum, one) => sum + heldBy(one), 0);
            assert.equal(quotas.of(identity, limits).count("openRuns"), held);
            assert.ok(held <= limits.openRuns, `${identity} holds ${held}`);
          }
        };
        for (const { kind, stream: at, run: index } of steps) {
          const connection = connections[at]!;
          if (kind === "settle") {
            await check();
          } else if (kind === "lose" || kind === "close") {
            if (kind === "lose") await connection.lose();
            else await connection.halfClose();
            connections[at] = connect(at);
          } else {
            const request = requests[kind]!(`run-${history}-${index}`);
            await connection.send(create(IngestRequestSchema, request));
          }
        }
        await check();
        for (const [at, connection] of connections.entries()) {
          if (at % 2 === 0) await connection.lose();
          else await connection.halfClose();
        }
        for (const identity of identities) {
          assert.equal(quotas.of(identity, limits).count("openRuns"), 0);
        }
        quotas.sweep();
        assert.equal(quotas.size, 0);
      },
    );
  });

  const change = fc.record({
    call: fc.nat(identities.length - 1),
    kind: fc.constantFrom("start", "start", "start", "start_badly", "stop", "check", "leave"),
    id: fc.integer({ min: 1, max: 4 }),
  });

  it("count the subscriptions of an identity, and none once its calls have ended", async () => {
    const engine = engineOver(store.journal);
    await openRun(engine, "run");
    const spec = subscriptionTo({ kind: "all" });
    const badly: SubscriptionSpec = { ...spec, journalId: "another" };
    await assertHistories(
      backend.histories(150),
      [fc.array(change, { minLength: 5, maxLength: 40 })],
      async (changes) => {
        const quotas = new Quotas();
        const calls = identities.map((identity) => {
          const usage = quotas.of(identity, limits);
          const watch = new Watch({ ...engine, usage });
          const leave = new AbortController();
          const call = { usage, watch, leave, started: 0, ended: 0 };
          const reading = (async () => {
            for await (const { t } of watch.run(leave.signal)) if (t === "ended") call.ended++;
          })();
          return Object.assign(call, { reading });
        });
        for (const { call: at, kind, id } of changes) {
          const call = calls[at]!;
          const { usage, watch, leave } = call;
          if (kind === "start" || kind === "start_badly") {
            watch.start(id, () => (kind === "start" ? spec : badly), Number.POSITIVE_INFINITY);
            call.started++;
          } else if (kind === "stop") {
            watch.stop(id);
          } else if (kind === "leave") {
            leave.abort();
          } else {
            await settled();
          }
          assert.ok(usage.count("subscriptions") <= limits.subscriptions);
        }
        for (const call of calls) {
          const { leave, reading, usage } = call;
          // Those that end by themselves do so in the steps that they have left.
          while (!leave.signal.aborted && call.started - call.ended > limits.subscriptions) {
            await settled();
          }
          leave.abort();
          await reading;
          assert.equal(usage.count("subscriptions"), 0);
        }
      },
    );
  });
});
