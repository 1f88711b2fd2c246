import assert from "node:assert/strict";
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { AccessFile, allPermissions, tokenEntry, tokenOf } from "../support/access.ts";
import { append, open, Stream } from "../support/producer.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { refusalOf, type WireClient, wires } from "../support/wire.ts";

const streaming = wires.filter(({ isBidirectional }) => isBidirectional);
const everything = { namespace: "*", permissions: allPermissions };
/** Milliseconds; enough to open three streams on a busy machine. */
const soonMs = 3_000;

/** How a call ended that was open. */
async function endOf(answers: AsyncIterator<unknown>): Promise<string> {
  try {
    while ((await answers.next()).done !== true) {
      // What it still had to get.
    }
    return "ok";
  } catch (error) {
    const refused = ConnectError.from(error);
    const [detail] = refused.findDetails(ErrorDetailSchema);
    return `${Code[refused.code]} ${Reason[detail?.reason ?? 0]}`;
  }
}

const expired = `${Code[Code.Unauthenticated]} ${Reason[Reason.TOKEN_EXPIRED]}`;

for (const wire of streaming) {
  describe(`open calls over ${wire.name}`, () => {
    let file: AccessFile;
    let server: TestServer;
    let client: WireClient;
    let expectedErrors: RegExp[];

    const start = async (entry: object) => {
      expectedErrors = [];
      const owner = tokenEntry("owner", [everything]);
      file = await AccessFile.make({ tokens: [owner, entry] });
      server = await startTestServer({ accessFile: file.path });
      const first = await wire.connect(server.url, tokenOf("owner"));
      await first.runs.createRun({ runId: "run" });
      first.close();
      client = await wire.connect(server.url, tokenOf("caller"));
    };

    afterEach(async () => {
      client.close();
      await server.remove();
      await file.remove();
      assert.equal(server.errors.length, expectedErrors.length);
      for (const [index, pattern] of expectedErrors.entries()) {
        assert.match(server.errors[index]!, pattern);
      }
    });

    const all = { filter: { scope: { case: "all" as const, value: {} } } };

    /** A call of each kind, which has been answered. */
    async function openCalls() {
      const subscription = client.subscribe.subscribe(all)[Symbol.asyncIterator]();
      async function* requests() {
        const start = { case: "start" as const, value: { request: all } };
        yield { subscriptionId: 1, frame: start };
        await new Promise(() => undefined);
      }
      const watch = client.subscribe.watch(requests())[Symbol.asyncIterator]();
      const many = client.subscribe
        .subscribeMany({ subscriptions: [{ subscriptionId: 1, request: all }] })
        [Symbol.asyncIterator]();
      const stream = new Stream(client);
      stream.send(open("run", null));
      const answers = [subscription.next(), watch.next(), many.next(), stream.expect("opened")];
      await Promise.all(answers);
      const ingest = { next: async () => ({ done: (await stream.next()) === undefined }) };
      return { subscription, watch, many, stream, ingest: ingest as AsyncIterator<unknown> };
    }

    it("end when their token expires, and say so", async () => {
      const expires = new Date(Date.now() + soonMs).toISOString();
      await start(tokenEntry("caller", [everything], { expires }));
      const { subscription, watch, many, ingest } = await openCalls();
      const ends = await Promise.all([subscription, watch, many, ingest].map(endOf));
      assert.deepEqual(ends, [expired, expired, expired, expired]);
      const { code, detail } = await refusalOf(client.runs.getRun({ runId: "run" }));
      assert.deepEqual([code, detail?.reason], [Code.Unauthenticated, Reason.TOKEN_EXPIRED]);
    });

    it("end when the file takes a right, and the next call says which", async () => {
      await start(tokenEntry("caller", [everything]));
      const { subscription, watch, many, ingest } = await openCalls();
      const less = { namespace: "*", permissions: ["read"] };
      await file.write({ tokens: [tokenEntry("caller", [less])] });
      const ends = await Promise.all([subscription, watch, many, ingest].map(endOf));
      assert.deepEqual(ends, [expired, expired, expired, expired]);
      assert.equal((await client.runs.getRun({ runId: "run" })).run?.runId, "run");
      const refused = await refusalOf(client.runs.cancelRun({ runId: "run" }));
      assert.equal(Reason[refused.detail?.reason ?? 0], "PERMISSION");
    });

    it("end when the file no longer has their token", async () => {
      await start(tokenEntry("caller", [everything]));
      const { subscription } = await openCalls();
      await file.write({ tokens: [] });
      assert.equal(await endOf(subscription), expired);
      const refused = await refusalOf(client.runs.getRun({ runId: "run" }));
      assert.equal(Reason[refused.detail?.reason ?? 0], "UNAUTHENTICATED");
    });

    it("go on when the file gives as much as before, or is wrong", async () => {
      await start(tokenEntry("caller", [everything]));
      const { stream } = await openCalls();
      await file.write({ tokens: [{ name: "caller" }] });
      while (server.errors.length === 0) await client.runs.getRun({ runId: "run" });
      expectedErrors = [/tokens\[0\].sha256: is missing/];
      const next = tokenEntry("next", [everything]);
      await file.write({ tokens: [tokenEntry("caller", [everything, everything]), next] });
      const other = await wire.connect(server.url, tokenOf("next"));
      // Until the file has been read.
      while (!(await other.runs.getRun({ runId: "run" }).then(Boolean, () => false))) {
        await client.runs.getRun({ runId: "run" });
      }
      other.close();
      stream.send(append("run", 1, "still here"));
      assert.equal((await stream.expect("ack")).runSeq, 1n);
    });
  });
}
