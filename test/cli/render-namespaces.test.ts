import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import pc from "picocolors";
import { NamespaceSchema } from "../../gen/runlog/v1/admin_pb.js";
import { renderNamespaces } from "../../src/cli/render-namespaces.ts";
import { sizeText } from "../../src/cli/text.ts";

describe("the table of namespaces", () => {
  it("aligns its columns, and lets no name draw on the terminal", () => {
    const createTime = timestampFromMs(Date.UTC(2026, 0, 2, 3, 4, 5, 678));
    const namespaces = [
      create(NamespaceSchema, { name: "a", earliestSeq: 1n, createTime }),
      create(NamespaceSchema, {
        name: "b\u001b[31m\n",
        earliestSeq: 12n,
        latestSeq: 3_456n,
        runningCount: 2n,
        runCount: 10n,
        eventBytes: 5_000_000n,
        retention: durationFromMs(36 * 3_600_000),
        createTime,
      }),
    ];
    assert.deepEqual(renderNamespaces(namespaces, pc.createColors(false)), [
      "NAMESPACE  RUNNING/RUNS      SEQS     SIZE  RETENTION  CREATED",
      "a                   0/0      none      0 B    forever  2026-01-02T03:04:05Z",
      "b\\n                2/10  12..3456  4.8 MiB        36h  2026-01-02T03:04:05Z",
    ]);
  });

  it("is its head alone where there is none", () => {
    assert.equal(renderNamespaces([], pc.createColors(false)).length, 1);
  });

  it("writes sizes in the unit that leaves at most four digits", () => {
    const sizes = [0, 1_023, 1_024, 1_048_524, 1_048_525, 1_048_576, 2 ** 40, 2 ** 52].map(
      sizeText,
    );
    const expected = ["0 B", "1023 B", "1.0 KiB", "1023.9 KiB", "1.0 MiB", "1.0 MiB", "1.0 TiB"];
    assert.deepEqual(sizes, [...expected, "4096.0 TiB"]);
  });
});
