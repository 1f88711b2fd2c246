/** Logs that show a token. */
import assert from "node:assert/strict";
import { type ConnectLogOptions, RunlogError } from "../../src/client/index.ts";
import { AccessFile, allPermissions, tokenEntry, tokenOf } from "../support/access.ts";
import { followingWires, LogRig, producingWires } from "./log-rig.ts";

describe("a log with a token", () => {
  let file: AccessFile;
  let rig: LogRig;

  beforeEach(async () => {
    const grants = [{ namespace: "team", permissions: allPermissions }];
    file = await AccessFile.make({ tokens: [tokenEntry("owner", grants)] });
    rig = await LogRig.start({ accessFile: file.path });
  });

  afterEach(async () => {
    await rig.close();
    await file.remove();
  });

  const reasonOf = async (call: () => Promise<unknown>) => {
    try {
      await call();
    } catch (error) {
      assert.ok(error instanceof RunlogError, String(error));
      return error.reason;
    }
    return undefined;
  };

  for (const wire of new Set([...producingWires, ...followingWires])) {
    it(`shows it with every call over ${wire.name}, in its namespace`, async () => {
      const connect = (options: ConnectLogOptions) => rig.connect(wire, undefined, options);
      const token = async () => tokenOf("owner");
      const log = connect({ namespace: "team", token });
      if (producingWires.includes(wire)) {
        await log.withRun({ runId: "r" }, (run) => run.emit("here"));
      }
      const read = async (reader: typeof log) => {
        for await (const _ of reader.follow({ all: true }, { until: "caught-up" }));
        return reader.runs().toArray();
      };
      for (const { namespace } of await read(log)) assert.equal(namespace, "team");
      assert.equal(log.namespace, "team");
      const nobody = connect({ namespace: "team", onError: () => {} });
      assert.equal(await reasonOf(() => read(nobody)), "UNAUTHENTICATED");
      assert.equal(await reasonOf(() => read(connect({ token }))), "PERMISSION");
    });
  }

  it("says once that it has none, and ends the run", async () => {
    const errors: Error[] = [];
    const log = rig.connect(undefined, undefined, { onError: (error) => errors.push(error) });
    const run = log.startRun();
    run.emit("lost");
    await run.over;
    assert.deepEqual([run.state, run.aborted.aborted, errors], ["failed", true, [run.error]]);
    assert.equal(await reasonOf(() => run.flush()), "UNAUTHENTICATED");
  });
});
