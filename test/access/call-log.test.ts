/** What the server's log tells of each call: who made it. */
import assert from "node:assert/strict";
import { pino } from "pino";
import { AccessFile, tokenEntry, tokenOf } from "../support/access.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { refusalOf, wires } from "../support/wire.ts";

interface LogLine {
  readonly msg: string;
  readonly method?: string;
  readonly identity?: string;
}

describe("the log of calls", () => {
  let file: AccessFile;
  let server: TestServer;
  let lines: string[];

  beforeEach(async () => {
    lines = [];
    const grants = [{ namespace: "default", permissions: ["signal", "ingest"] }];
    file = await AccessFile.make({ tokens: [tokenEntry("anna", grants)] });
    const logger = pino({ level: "debug" }, { write: (line: string) => void lines.push(line) });
    server = await startTestServer({ accessFile: file.path, logger });
  });

  afterEach(async () => {
    await server.remove();
    await file.remove();
  });

  const said = (msg: string) =>
    lines
      .map((line) => JSON.parse(line) as LogLine)
      .filter((line) => line.msg === msg)
      .map(({ method, identity }) => [method, identity]);

  for (const wire of wires) {
    it(`names the caller and the method, and shows no token, over ${wire.name}`, async () => {
      const anna = await wire.connect(server.url, tokenOf("anna"));
      const nobody = await wire.connect(server.url, "no-token-of-ours");
      await anna.runs.createRun({ runId: "r" });
      await anna.runs.signalRun({ runId: "r", event: { type: "message" } });
      await refusalOf(nobody.runs.signalRun({ runId: "r", event: { type: "message" } }));
      assert.deepEqual(said("call"), [
        ["CreateRun", "anna"],
        ["SignalRun", "anna"],
      ]);
      assert.deepEqual(said("a call was refused"), [["SignalRun", undefined]]);
      assert.doesNotMatch(lines.join(""), /token-of/);
      anna.close();
      nobody.close();
    });
  }
});
