/** Pages in a real browser, from origins that are not the server's. */
import assert from "node:assert/strict";
import { createClient } from "@connectrpc/connect";
import type { Page } from "playwright-core";
import { freePort } from "../dev/postgres-server.ts";
import { RunService } from "../gen/runlog/v1/run_pb.js";
import { openRun, type RunSender } from "../src/client/index.ts";
import { connectTo, type NodeConnection } from "../src/client/node/index.ts";
import type { GrantJson } from "../test/support/access.ts";
import { Authority, type Certificate } from "../test/support/certificates.ts";
import { JwtIssuer } from "../test/support/jwt-issuer.ts";
import { startTestServer, type TestServer } from "../test/support/server.ts";
import { Chromium } from "./chromium.ts";
import { Name } from "./name.ts";
import type { Outcome, PageProtocol, SeenRecord } from "./page.ts";

const protocols: readonly PageProtocol[] = ["gRPC-Web", "Connect", "Connect, binary"];
const hourMs = 3_600_000;
/** Milliseconds; enough to open a stream on a busy machine. */
const soonMs = 3_000;

let chromium: Chromium;
let authority: Authority;
let own: Certificate;
/** Sites: the first one is on the server's list. */
let app: string;
let evil: string;

/** Opens the page of an origin, and has it call a server, with the tokens that it is given. */
async function openPage(
  origin: string,
  protocol: PageProtocol,
  url: string,
  nextToken?: () => string | Promise<string>,
): Promise<Page> {
  const page = await chromium.open(origin);
  if (nextToken !== undefined) await page.exposeFunction("nextToken", nextToken);
  const given = { protocol, url };
  await page.evaluate((to) => globalThis.openRunlogPage(to.protocol, to.url), given);
  return page;
}

const signal = (page: Page, runId: string, text: string): Promise<Outcome> =>
  page.evaluate(([id, said]) => globalThis.runlogPage.signal(id!, said!), [runId, text]);
const getRun = (page: Page, runId: string): Promise<Outcome> =>
  page.evaluate((id) => globalThis.runlogPage.getRun(id), runId);
const followed = (page: Page, runId: string | undefined): Promise<Outcome> =>
  page.evaluate((id) => globalThis.runlogPage.follow(id), runId);
const seen = (page: Page, count: number, resumed = 0): Promise<readonly SeenRecord[]> =>
  page.evaluate(([least, times]) => globalThis.runlogPage.seen(least!, times!), [count, resumed]);

const reasonOf = (outcome: Outcome) => (outcome === "ok" ? outcome : outcome.reason);
const shown = ({ runId, text, sender }: SeenRecord) =>
  `${runId}: ${text}${sender && ` (${sender})`}`;

describe("a page", () => {
  before(async () => {
    chromium = await Chromium.start();
    authority = await Authority.make();
    own = await authority.signServer();
    app = chromium.origin("app.example");
    evil = chromium.origin("evil.example");
  });

  after(async () => {
    await chromium.stop();
    await authority.remove();
  });

  for (const isSecure of [false, true]) {
    for (const protocol of protocols) {
      const http = isSecure ? "HTTP/2" : "HTTP/1.1";
      describe(`of another origin, over ${protocol} and ${http},`, () => {
        let issuer: JwtIssuer;
        let grants: GrantJson[];
        let server: TestServer;
        let producer: NodeConnection;
        let sender: RunSender;

        beforeEach(async () => {
          issuer = await JwtIssuer.make();
          server = await startTestServer({
            accessFile: issuer.accessFile.path,
            allowOrigins: [app],
            port: await freePort(),
            ...(isSecure && { tls: { cert: own.certPath, key: own.keyPath } }),
          });
          producer = connectTo(server.url, {
            token: await issuer.sign(hourMs),
            ...(isSecure && { tls: { ca: authority.ca } }),
          });
          const client = createClient(RunService, producer.transport);
          const { run } = await client.createRun({ runId: "root", spec: {} });
          await client.createRun({ runId: "child", spec: { parentRunId: "root" } });
          await client.createRun({ runId: "stranger", spec: {} });
          const ancestor = { run_id: "root", start_seq: Number(run?.startSeq) };
          grants = [{ namespace: "default", permissions: ["read", "signal"], ancestor }];
          sender = openRun(producer.transport, { runId: "child", receiveSignals: true });
        });

        afterEach(async () => {
          await sender.close(5_000);
          producer.close();
          await server.remove();
          await issuer.accessFile.remove();
          assert.deepEqual(server.errors, []);
        });

        const say = (text: string, handled = 0) =>
          sender.emit({ type: "said", data: Buffer.from(text) }, handled);
        /** Opens the page of the origin on the list. */
        const openApp = (lifetimeMs = hourMs) =>
          openPage(app, protocol, server.url, () => issuer.sign(lifetimeMs, grants));

        /** Asserts that a page saw the starts of the family, and these records, each once. */
        function assertSaw(records: readonly SeenRecord[], ...others: string[]): void {
          const starts = ["child: runStarted", "root: runStarted"];
          assert.deepEqual(records.map(shown).toSorted(), [...others, ...starts].toSorted());
          const seqs = records.map(({ seq }) => seq);
          const inOrder = seqs.toSorted((one, other) => one - other);
          assert.deepEqual(seqs, inOrder);
        }

        it("follows a family through a restart of the server, and sends signals to it", async () => {
          const page = await openApp();
          const leaving = assert.rejects(followed(page, "root"));
          say("before");
          await seen(page, 3);
          const restarting = server.restart();
          say("meanwhile");
          server = await restarting;
          assert.equal(await signal(page, "child", "go on"), "ok");
          for await (const { event, signalSeq } of sender.signals()) {
            say(`answer to ${Buffer.from(event.data)}`, signalSeq);
            break;
          }
          assertSaw(
            await seen(page, 6, 1),
            "child: before",
            "child: meanwhile",
            "child: go on (https://id.example.com#somebody)",
            "child: answer to go on",
          );
          await page.context().close();
          await leaving;
        });

        it("renews its token when that expires, and misses nothing", async () => {
          const page = await openApp(soonMs);
          const leaving = assert.rejects(followed(page, "root"));
          say("before");
          await seen(page, 3, 1);
          say("between");
          await seen(page, 4, 2);
          say("after");
          assertSaw(await seen(page, 5), "child: after", "child: before", "child: between");
          assert.equal(await signal(page, "child", "hello"), "ok");
          await page.context().close();
          await leaving;
        });

        it("is refused without a token, and served with the next one", async () => {
          const without = await openPage(app, protocol, server.url);
          const page = await openPage(app, protocol, server.url, () => token);
          let token = "nobody-knows-it";
          for (const refused of [without, page]) {
            for (const outcome of [
              await getRun(refused, "root"),
              await signal(refused, "root", "hello"),
              await followed(refused, "root"),
            ]) {
              assert.equal(reasonOf(outcome), "UNAUTHENTICATED");
            }
          }
          token = await issuer.sign(hourMs, grants);
          assert.equal(await getRun(page, "root"), "ok");
          for (const one of [without, page]) await one.context().close();
        });

        it("is refused outside its subtree, as if nothing were there", async () => {
          const page = await openApp();
          const answered = page.waitForResponse(/GetRun/);
          assert.equal(await getRun(page, "child"), "ok");
          assert.equal(await (await answered).httpVersion(), isSecure ? "HTTP/2.0" : "HTTP/1.1");
          for (const runId of ["stranger", "nothing"]) {
            assert.equal(reasonOf(await getRun(page, runId)), "RUN_NOT_FOUND");
            assert.equal(reasonOf(await signal(page, runId, "hello")), "RUN_NOT_FOUND");
            assert.equal(reasonOf(await followed(page, runId)), "RUN_NOT_FOUND");
          }
          assert.equal(reasonOf(await followed(page, undefined)), "PERMISSION");
          await page.context().close();
        });

        it("gets no answer if its origin is not on the list, whatever its token", async () => {
          const page = await openPage(evil, protocol, server.url, () => issuer.sign(hourMs));
          for (const outcome of [await getRun(page, "root"), await signal(page, "root", "hello")]) {
            assert.notEqual(outcome, "ok");
            // All that a browser tells.
            assert.equal(reasonOf(outcome), "none");
          }
          await page.context().close();
          const client = createClient(RunService, producer.transport);
          const { run } = await client.getRun({ runId: "root" });
          assert.equal(run?.lastSignalSeq, 0n);
        });
      });
    }
  }

  describe("and a server without authentication", () => {
    let server: TestServer;
    let page: Page;

    beforeEach(async () => {
      server = await startTestServer({ allowOrigins: [app] });
      const { transport, close } = connectTo(server.url);
      await createClient(RunService, transport).createRun({ runId: "root", spec: {} });
      close();
    });

    afterEach(async () => {
      await page.context().close();
      await server.remove();
      assert.deepEqual(server.errors, []);
    });

    /** What a page gets from the server if it asks in a way that needs no preflight. */
    async function statusOf(mode: "no-cors" | "same-origin", url: string): Promise<number> {
      const answered = page.waitForResponse((response) => response.url() === url);
      await page.evaluate(({ mode: how, url: asked }) => fetch(asked, { mode: how }), {
        mode,
        url,
      });
      return (await answered).status();
    }

    const query = "?connect=v1&encoding=json&message=%7B%22runId%22%3A%22root%22%7D";
    const getRunPath = `/runlog.v1.RunService/GetRun${query}`;

    it("serves pages of the origins on its list", async () => {
      page = await openPage(app, "Connect", server.url);
      assert.equal(await getRun(page, "root"), "ok");
      assert.equal(await statusOf("no-cors", `${server.url}/healthz`), 200);
    });

    it("serves no page of another origin, even where that could read no answer", async () => {
      page = await openPage(evil, "Connect", server.url);
      assert.equal(reasonOf(await getRun(page, "root")), "none");
      assert.equal(await statusOf("no-cors", `${server.url}${getRunPath}`), 403);
      assert.equal(await statusOf("no-cors", `${server.url}/healthz`), 200);
    });

    it("serves no page whose name was made to lead to it", async () => {
      const name = await Name.make(chromium.port);
      try {
        const rebound = `http://rebound.example:${name.port}`;
        page = await openPage(rebound, "gRPC-Web", rebound);
        name.leadTo(Number(new URL(server.url).port));
        // The page can read why: to its browser the server is its own.
        assert.equal(reasonOf(await getRun(page, "root")), "PERMISSION");
        assert.equal(await statusOf("same-origin", `${rebound}${getRunPath}`), 403);
      } finally {
        await name.remove();
      }
    });
  });
});
