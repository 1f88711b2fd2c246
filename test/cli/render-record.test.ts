import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import pc from "picocolors";
import { SequencedEventSchema } from "../../gen/runlog/v1/event_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { renderRecord } from "../../src/cli/render-record.ts";
import { RunNames } from "../../src/cli/run-names.ts";

describe("a record as a line", () => {
  it("counts one event in the singular", () => {
    const options = { colors: pc.createColors(false), names: new RunNames(), columns: undefined };
    const ended = (lastRunSeq: bigint) => {
      const value = { lastRunSeq, result: { state: RunState.SUCCEEDED } };
      const record = { case: "runFinished", value } as const;
      return renderRecord(create(SequencedEventSchema, { seq: 3n, runId: "r", record }), options);
    };
    assert.match(ended(1n), / 1 event$/);
    assert.match(ended(2n), / 2 events$/);
  });
});
