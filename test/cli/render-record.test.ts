import assert from "node:assert/strict";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import pc from "picocolors";
import { SequencedEventSchema } from "../../gen/runlog/v1/record_pb.js";
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

  it("leaves a third of a narrow terminal to what happened, at least", () => {
    const value = { type: "a.long.type.of.event", data: Buffer.from("x".repeat(200)) };
    const record = { case: "event", value: { ...value, contentType: "text/plain" } } as const;
    for (const columns of [60, 80, 200]) {
      const options = { colors: pc.createColors(false), names: new RunNames(), columns };
      const line = renderRecord(
        create(SequencedEventSchema, { seq: 3n, runId: "r", record }),
        options,
      );
      assert.ok(line.length <= columns);
      if (columns >= 80) assert.ok((/x+/.exec(line)?.[0].length ?? 0) >= columns / 3 - 8, line);
    }
  });

  it("shows signals and waits as what they are", () => {
    const options = { colors: pc.createColors(false), names: new RunNames(), columns: undefined };
    const line = (record: MessageInitShape<typeof SequencedEventSchema>["record"]) =>
      renderRecord(create(SequencedEventSchema, { seq: 3n, runId: "r", record: record! }), options);
    const event = { type: "approval", data: Buffer.from('{"ok":true}') };
    assert.match(
      line({ case: "signal", value: { signalSeq: 2n, signalId: "s", sender: "anna", event } }),
      /! approval +2 from anna \{"ok":true\}$/,
    );
    const question = { type: "question", data: Buffer.from('"May I?"') };
    assert.match(
      line({ case: "runWaiting", value: { wait: { code: "approval", question } } }),
      /> waiting +for approval "May I\?"$/,
    );
    // An event that calls itself so cannot be taken for one.
    assert.match(line({ case: "event", value: { type: "! approval" } }), /"! approval"/);
  });
});
