/** `runlog serve --limit` and RUNLOG_LIMITS, with the server as a process. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@connectrpc/connect";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import { follow } from "../../src/client/index.ts";
import { connectTo } from "../../src/client/node/index.ts";
import { assertFailed, Commands, textsOf } from "./commands.ts";

describe("runlog serve --limit", () => {
  const commands = new Commands();
  let directory: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-limits-"));
  });

  afterEach(async () => {
    await commands.endAll();
    await rm(directory, { recursive: true });
  });

  /** Starts a server with these limits and takes it as the one that commands talk to. */
  const serve = async (limits: readonly string[], variable = ""): Promise<void> => {
    const flags = limits.flatMap((limit) => ["--limit", limit]);
    const journal = `sqlite:${join(directory, "journal.db")}`;
    const server = commands.start(
      ["serve", "--listen", "127.0.0.1:0", "--journal", journal, ...flags],
      { RUNLOG_LIMITS: variable },
    );
    const [, url] = await server.until("stdout", /^listening on (\S+)\n/);
    commands.url = url!;
  };

  it("is enforced and told; the flag wins over RUNLOG_LIMITS, which counts otherwise", async () => {
    await serve(["max-event-bytes=2KiB"], "max-event-bytes=1KiB  max-unacked-events=5");
    const connection = connectTo(commands.url);
    const { limits } = await createClient(IngestService, connection.transport)
      .appendEvents({ runId: "other", create: {} })
      .finally(() => connection.close());
    assert.deepEqual([limits?.maxEventBytes, limits?.maxUnackedEvents], [2_048n, 5n]);
    const lines = ["x".repeat(1_500), "x".repeat(2_500), ...Array.from("0123456789")];
    const ended = await commands.run(["ingest", "--run", "r"], lines.join("\n"));
    assert.equal(ended.status, 1);
    assert.match(ended.stderr, /line 2 has 2500 bytes, the limit is 2048: not recorded/);
    const records = await commands.records("--run", "r", "--until", "finished");
    assert.deepEqual(textsOf(records, "r"), [
      lines[0],
      '{"bytes":2500,"limit":2048}',
      ...lines.slice(2),
    ]);
  });

  it("takes an event as large as the largest limit, and delivers it", async () => {
    await serve([
      "max-event-bytes=16MiB",
      "max-append-bytes=17MiB",
      "max-message-bytes=34MiB",
      "tail-bytes=0",
    ]);
    const line = "x".repeat(16 * 1024 * 1024 - 200);
    const ended = await commands.run(["ingest", "--run", "r"], `${line}\nsmall\n`);
    assert.equal(ended.status, 0, ended.stderr);
    const connection = connectTo(commands.url);
    const filter = { scope: { case: "all", value: {} } } as const;
    const sizes: number[] = [];
    for await (const item of follow(connection.transport, { filter, stop: StopPolicy.CAUGHT_UP })) {
      for (const { record } of item.t === "records" ? item.records : []) {
        if (record.case === "event") sizes.push(record.value.data.length);
      }
    }
    connection.close();
    assert.deepEqual(sizes, [line.length, "small".length]);
  });

  it("refuses wrong limits in one line, before it opens anything", async () => {
    const journal = ["--journal", `sqlite:${join(directory, "none", "journal.db")}`];
    const flags = ["--limit", "max-evnt-bytes=1MiB", "--limit", "tail-bytes=lots"];
    const wrong = await commands.run(["serve", ...journal, ...flags], "", {
      RUNLOG_LIMITS: "max-labels=33",
    });
    assert.deepEqual([wrong.status, wrong.stdout.length], [2, 0]);
    const [line] = wrong.stderr.split("\n");
    for (const part of [
      /^error: RUNLOG_LIMITS max-labels=33: must be 0 to 32; /,
      /--limit max-evnt-bytes=1MiB: no such limit; /,
      /--limit tail-bytes=lots: use bytes/,
      /the limits are max-event-bytes, /,
    ]) {
      assert.match(line!, part);
    }
    // With limits that are right it gets as far as the journal.
    assertFailed(
      await commands.run(["serve", ...journal, "--limit", "max-labels=3"]),
      /cannot open|does not exist/i,
    );
  });

  it("tells the limits and their defaults in its help", async () => {
    const { status, stdout } = await commands.run(["serve", "--help"]);
    assert.equal(status, 0);
    assert.match(stdout.toString(), /^ {2}max-event-bytes +1MiB +one encoded event/m);
    assert.match(stdout.toString(), /RUNLOG_LIMITS=/);
  });
});
