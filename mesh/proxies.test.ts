/** What deploy/ ships, in the real nginx and the real Envoy, before three nodes. */
import assert from "node:assert/strict";
import { createClient } from "@connectrpc/connect";
import { IngestService } from "../gen/runlog/v1/ingest_pb.js";
import { type FollowState, follow, openRun } from "../src/client/index.ts";
import { connectTo } from "../src/client/node/index.ts";
import { Faults, runLoad } from "../test/faults/load.ts";
import { type Wire, wires } from "../test/support/wire.ts";
import { type Cluster, startCluster } from "./nodes.ts";
import { proxies, type RunningProxy } from "./proxies.ts";

const overHttp2 = (wire: Wire) => wire.name.startsWith("gRPC (") || wire.name.includes("HTTP/2");

for (const [name, startProxy] of Object.entries(proxies)) {
  describe(`${name} before three nodes`, () => {
    let cluster: Cluster;
    let proxy: RunningProxy;

    before(async () => {
      // A silence is then seconds long, and not minutes.
      cluster = await startCluster(["progress-interval=1s"]);
    });

    after(async () => {
      await cluster.stop();
    });

    beforeEach(async () => {
      proxy = await startProxy({ nodePorts: cluster.ports });
    });

    afterEach(async () => {
      await proxy.stop();
    });

    it("answers calls of every protocol, however they are mixed", async () => {
      const clients = await Promise.all(
        wires.map((wire) => wire.connect(overHttp2(wire) ? proxy.http2Url : proxy.http1Url)),
      );
      const calls = Array.from({ length: 600 }, async (_, index) => {
        const client = clients[index % clients.length]!;
        const runId = `mixed-${index}`;
        const events = [{ type: "mixed" }];
        const create = {};
        await client.ingest.appendEvents({
          namespace: name,
          runId,
          create,
          firstRunSeq: 1n,
          events,
        });
        const { run } = await client.runs.getRun({ namespace: name, runId });
        return run?.lastRunSeq;
      });
      const answers = await Promise.allSettled(calls);
      const problems = answers.filter((answer) => answer.status === "rejected");
      assert.deepEqual(problems.slice(0, 3), []);
      assert.ok(answers.every((answer) => answer.status === "fulfilled" && answer.value === 1n));
      for (const client of clients) client.close();
    });

    it("leaves a node that drains at once: no call fails, nothing is lost or doubled", async () => {
      const plain = connectTo(proxy.http2Url);
      const client = createClient(IngestService, plain.transport);
      const browser = (path: string) =>
        fetch(`${proxy.http1Url}/runlog.v1.RunService/${path}`, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: "{}",
        });
      const faults = new Faults([300], async () => {
        for (const node of cluster.nodes) {
          await node.drain();
          // It is away: whoever is sent there now is sent on.
          for (let i = 0; i < 10; i++) {
            const runId = `plain-${node.port}-${i}`;
            await client.appendEvents({ namespace: name, runId, create: {} });
            assert.equal((await browser("ListRuns")).status, 200);
          }
          await node.start();
        }
      });
      await runLoad({
        nodes: [proxy.http2Url],
        senders: 3,
        followers: 2,
        events: 1_500,
        faults,
      });
      plain.close();
    });

    it("keeps streams that are silent in both directions", async () => {
      const impatient = await startProxy({ nodePorts: cluster.ports, silenceSeconds: 3 });
      const connection = connectTo(impatient.http2Url);
      const life = new AbortController();
      try {
        const run = openRun(connection.transport, { namespace: "silence", spec: {} });
        run.emit({ type: "before" });
        await run.flush();
        const states: FollowState["t"][] = [];
        const request = {
          namespace: "silence",
          filter: { scope: { case: "runIds" as const, value: { runIds: [run.runId] } } },
          progressIntervalMs: 1_000,
        };
        const onState = ({ t }: FollowState) => states.push(t);
        let progress = 0;
        let events = 0;
        for await (const item of follow(connection.transport, request, {
          signal: life.signal,
          onState,
        })) {
          // Three times as long as the proxy lets a dead stream live.
          if (item.t === "progress" && ++progress === 9) run.emit({ type: "after" });
          if (item.t !== "records") continue;
          events += item.records.filter(({ record }) => record.case === "event").length;
          if (events === 2) break;
        }
        await run.flush();
        assert.equal(progress >= 9, true);
        assert.deepEqual(states, ["connecting", "following"]);
        assert.equal(run.stats.reconnects, 0);
        await run.finish({ state: 2 });
      } finally {
        life.abort();
        connection.close();
        await impatient.stop();
      }
    });
  });
}
