import assert from "node:assert/strict";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { maxHealthWatchesPerConnection } from "../../src/limits.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { refusalOf, type WireClient, wires } from "../support/wire.ts";

// Clients of @grpc/grpc-js share their connections.
const streaming = wires.filter(
  ({ name, isBidirectional }) => isBidirectional && !name.includes("grpc-js"),
);

for (const wire of streaming) {
  describe(`watches of health over ${wire.name}`, () => {
    let server: TestServer;
    let client: WireClient;

    beforeEach(async () => {
      server = await startTestServer();
      client = await wire.connect(server.url);
    });

    afterEach(async () => {
      client.close();
      await server.remove();
      assert.deepEqual(server.errors, []);
    });

    const watch = async (signal?: AbortSignal) => {
      const answers = client.health.watch({}, { ...(signal && { signal }) });
      return (await answers[Symbol.asyncIterator]().next()).value.status;
    };

    it("are few on one connection, since nobody needs a token for them", async () => {
      const first = new AbortController();
      assert.equal(await watch(first.signal), 1);
      for (let count = 1; count < maxHealthWatchesPerConnection; count++) await watch();
      const { code, detail } = await refusalOf(watch());
      assert.deepEqual([code, detail?.reason], [Code.ResourceExhausted, Reason.QUOTA]);
      const other = await wire.connect(server.url);
      const elsewhere = other.health.watch({})[Symbol.asyncIterator]();
      assert.equal((await elsewhere.next()).value.status, 1);
      other.close();
      // One that has ended makes room, once the server has heard of it.
      first.abort();
      let status: number | undefined;
      while (status === undefined) status = await watch().catch(() => undefined);
      assert.equal(status, 1);
      assert.equal((await refusalOf(watch())).detail?.reason, Reason.QUOTA);
    });
  });
}
