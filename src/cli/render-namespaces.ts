/** Namespaces as a table. */
import { type Duration, durationMs, timestampDate } from "@bufbuild/protobuf/wkt";
import type { Namespace } from "../../gen/runlog/v1/admin_pb.js";
import type { Colors } from "./colors.ts";
import { exactDurationText } from "./quantities.ts";
import { fill, printable, sizeText, widthOf } from "./text.ts";

const head = ["NAMESPACE", "RUNNING/RUNS", "SEQS", "SIZE", "RETENTION", "CREATED"] as const;
/** Columns of numbers end in one line. */
const alignedRight: readonly boolean[] = [false, true, true, true, true, false];

/** Renders the table, a line each, the head first. */
export function renderNamespaces(namespaces: readonly Namespace[], colors: Colors): string[] {
  const rows = [head, ...namespaces.map(cellsOf)];
  const widths = head.map((_, i) => Math.max(...rows.map((cells) => widthOf(cells[i] ?? ""))));
  const lines = rows.map((cells) =>
    cells
      .map((cell, i) =>
        alignedRight[i] ? cell.padStart(widths[i] ?? 0) : fill(cell, widths[i] ?? 0),
      )
      .join("  ")
      .trimEnd(),
  );
  return lines.map((line, i) => (i === 0 ? colors.dim(line) : line));
}

/** "7d", or "forever" where there is none. */
export function retentionText(retention: Duration | undefined): string {
  return retention === undefined ? "forever" : exactDurationText(Math.round(durationMs(retention)));
}

function cellsOf(namespace: Namespace): readonly string[] {
  const { name, earliestSeq, latestSeq, runningCount, runCount, eventBytes, createTime } =
    namespace;
  return [
    printable(name),
    `${runningCount}/${runCount}`,
    earliestSeq > latestSeq ? "none" : `${earliestSeq}..${latestSeq}`,
    sizeText(Number(eventBytes)),
    retentionText(namespace.retention),
    createTime === undefined
      ? ""
      : timestampDate(createTime)
          .toISOString()
          .replace(/\.\d+Z/, "Z"),
  ];
}
