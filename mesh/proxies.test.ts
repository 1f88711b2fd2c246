/**
 * What deploy/ ships, in the real nginx and the real Envoy, before three nodes, with what
 * deploy/make-secrets makes.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { request } from "node:https";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { IngestService } from "../gen/runlog/v1/ingest_pb.js";
import { type FollowState, follow, openRun } from "../src/client/index.ts";
import { connectTo } from "../src/client/node/index.ts";
import { Faults, runLoad } from "../test/faults/load.ts";
import { Secrets } from "../test/support/secrets.ts";
import { startTestServer } from "../test/support/server.ts";
import { wires } from "../test/support/wire.ts";
import { type Cluster, startCluster } from "./nodes.ts";
import { proxies, type RunningProxy } from "./proxies.ts";

const origin = "https://app.example.com";
/** nginx sends them to nodes in two ways. */
const [overGrpc, overHttp1] = [wires[1]!, wires.at(-1)!];

/** "answered", or the code of a refusal. */
const outcomeOf = (call: Promise<unknown>) =>
  call.then(
    () => "answered",
    (error: unknown) => Code[ConnectError.from(error).code]!,
  );

for (const [name, startProxy] of Object.entries(proxies)) {
  describe(`${name} before three nodes`, () => {
    let secrets: Secrets;
    let cluster: Cluster;
    let proxy: RunningProxy;

    before(async () => {
      secrets = await Secrets.make();
      cluster = await startCluster({
        secrets,
        flags: [
          // A silence is then seconds long, and not minutes.
          ...["--limit", "progress-interval=1s"],
          ...["--allow-origin", origin, "--trust-xfcc-from", "127.0.0.1"],
        ],
      });
    });

    after(async () => {
      await cluster.stop();
      await secrets.remove();
    });

    beforeEach(async () => {
      proxy = await startProxy({ nodePorts: cluster.ports, secrets });
    });

    afterEach(async () => {
      await proxy.stop();
    });

    it("answers calls of every protocol, however they are mixed", async () => {
      const clients = await Promise.all(
        wires.map((wire) => wire.connect(proxy.url, secrets.token, secrets.tls)),
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
      const { token, tls } = secrets;
      const plain = connectTo(proxy.url, { token, tls });
      const client = createClient(IngestService, plain.transport);
      const browser = await overHttp1.connect(proxy.url, token, tls);
      const faults = new Faults([300], async () => {
        for (const node of cluster.nodes) {
          await node.drain();
          // It is away: whoever is sent there now is sent on.
          for (let i = 0; i < 10; i++) {
            const runId = `plain-${node.port}-${i}`;
            await client.appendEvents({ namespace: name, runId, create: {} });
            await browser.runs.listRuns({});
          }
          await node.start();
        }
      });
      await runLoad({
        nodes: [proxy.url],
        connect: { token, tls },
        senders: 3,
        followers: 2,
        events: 1_500,
        faults,
      });
      plain.close();
      browser.close();
    });

    it("keeps streams that are silent in both directions", async () => {
      const nodePorts = cluster.ports;
      const impatient = await startProxy({ nodePorts, secrets, silenceSeconds: 3 });
      const { token, tls } = secrets;
      const connection = connectTo(impatient.url, { token, tls });
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

    it("reaches nodes by the certificate of a node alone", async () => {
      const others = await Secrets.make();
      const outcomes: string[] = [];
      // The right one, one of another authority, and one of another name.
      for (const tls of [secrets.pair("node"), others.pair("node"), secrets.pair("proxy")]) {
        const server = await startTestServer({ tls });
        const port = Number(new URL(server.url).port);
        const before = await startProxy({ nodePorts: [port, port, port], secrets });
        for (const wire of [overGrpc, overHttp1]) {
          const client = await wire.connect(before.url, undefined, secrets.tls);
          outcomes.push(await outcomeOf(client.health.check({})));
          client.close();
        }
        await before.stop();
        await server.remove();
      }
      await others.remove();
      const unavailable = Array.from({ length: 4 }, () => "Unavailable");
      assert.deepEqual(outcomes, ["answered", "answered", ...unavailable]);
    });

    it("drops what a client says of its certificate", async () => {
      const headers = { "x-forwarded-client-cert": "URI=spiffe://example.com/admin" };
      for (const wire of [overGrpc, overHttp1]) {
        const whoAmI = async (url: string) => {
          const client = await wire.connect(url, undefined, secrets.tls);
          const outcome = await outcomeOf(client.auth.whoAmI({}, { headers }));
          client.close();
          return outcome;
        };
        // A node believes it: its settings name proxies at this address.
        assert.equal(await whoAmI(`https://127.0.0.1:${cluster.ports[0]}`), "answered");
        assert.equal(await whoAmI(proxy.url), "Unauthenticated");
      }
    });

    it("leaves preflights to nodes", async () => {
      const url = `${proxy.url}/runlog.v1.RunService/ListRuns`;
      const { ca } = secrets.tls;
      const preflight = request(url, {
        method: "OPTIONS",
        ca,
        agent: false,
        headers: { origin, "access-control-request-method": "POST" },
      }).end();
      const [response] = (await once(preflight, "response")) as [IncomingMessage];
      response.resume();
      assert.equal(response.statusCode, 204);
      assert.equal(response.headers["access-control-allow-origin"], origin);
    });
  });
}
