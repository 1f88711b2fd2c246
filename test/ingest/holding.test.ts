/** Who has gone holds nothing, however it went. */
import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { type IngestRequest, IngestRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { IngestStream } from "../../src/ingest/ingest-stream.ts";
import { toIngestBytes } from "../../src/server/ingest-bytes.ts";
import { domainOver, openRun } from "../support/domain.ts";
import { describeJournal } from "../support/journals.ts";

const requestOf = (frame: Parameters<typeof create<typeof IngestRequestSchema>>[1] & object) =>
  create(IngestRequestSchema, frame);

describeJournal("holding runs", (open) => {
  it("ends for runs that a stream forgets to have room for others", async () => {
    const store = await open();
    const domain = domainOver(store.journal, { maxOpenRunsPerStream: 3 });
    const counts: number[] = [];
    async function* requests(): AsyncGenerator<IngestRequest> {
      for (let i = 0; i < 10; i++) {
        const runId = `r${i}`;
        yield requestOf({ frame: { case: "open", value: { runId, create: {} } } });
        const result = { state: RunState.SUCCEEDED };
        yield requestOf({ frame: { case: "finish", value: { runId, result } } });
        await domain.committer.idle();
        counts.push(domain.committer.heldRunIds("default").length);
      }
    }
    for await (const _ of new IngestStream(domain).run(toIngestBytes(requests())));
    assert.equal(Math.max(...counts), 3);
    assert.deepEqual(domain.committer.heldRunIds("default"), []);
    await store.remove();
  });

  it("ends where the stream opens its run again and is refused", async () => {
    const store = await open();
    const domain = domainOver(store.journal);
    const answers: string[] = [];
    async function* requests(): AsyncGenerator<IngestRequest> {
      for (const agentId of ["a", "a", "b"]) {
        yield requestOf({ frame: { case: "open", value: { runId: "r", create: { agentId } } } });
      }
      await domain.committer.idle();
      assert.deepEqual(domain.committer.heldRunIds("default"), []);
      assert.equal(domain.leases.advance(Number.MAX_SAFE_INTEGER).length, 1);
    }
    for await (const frames of new IngestStream(domain).run(toIngestBytes(requests()))) {
      answers.push(...frames.map(({ t }) => t));
    }
    assert.deepEqual(answers, ["opened", "opened", "rejected"]);
    await store.remove();
  });

  it("does not begin again by a question that was asked before", async () => {
    const store = await open();
    const domain = domainOver(store.journal);
    const producer = await openRun(domain, "r");
    domain.committer.checkHolders("default");
    domain.committer.release("default", producer);
    await domain.committer.idle();
    assert.deepEqual(domain.committer.heldRunIds("default"), []);
    assert.deepEqual(
      domain.leases.advance(Number.MAX_SAFE_INTEGER).map(({ runId }) => runId),
      ["r"],
    );
    await store.remove();
  });
});
