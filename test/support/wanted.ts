/** What a filter wants of random trees, told by the test itself. */
import type { SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { matches, type Scope } from "../../src/delivery/filter.ts";

/** Runs form a tree: run i > 0 is a child of run parents[i], which comes before it. */
export const runCount = 8;

/** Scopes over these runs. */
export const scopes: readonly Scope[] = [
  { kind: "all" },
  { kind: "ancestor", ancestorId: "run-0", includeSelf: true, maxDepth: Number.POSITIVE_INFINITY },
  { kind: "ancestor", ancestorId: "run-0", includeSelf: false, maxDepth: Number.POSITIVE_INFINITY },
  { kind: "ancestor", ancestorId: "run-1", includeSelf: true, maxDepth: Number.POSITIVE_INFINITY },
  { kind: "ancestor", ancestorId: "run-1", includeSelf: false, maxDepth: 1 },
  { kind: "runs", runIds: ["run-2"] },
  { kind: "runs", runIds: ["run-1", "run-3", "run-5", "run-7"] },
];

/** What a reader asks for: a scope, and patterns of types. */
export interface Wanted {
  readonly scope: Scope;
  readonly types: readonly string[];
}

/** Events are of the types t.0, t.1 and t.2 in turn, so that batches are mixed. */
export const typeOf = (runSeq: number): string => `t.${runSeq % 3}`;
/** Patterns of these types, and of others. */
export const typeChoices: readonly (readonly string[])[] = [
  [],
  ["t.1"],
  ["t.*"],
  ["t.2", "t.0"],
  ["u*"],
];

/** Lineages as the test built them, root last. */
function lineageOf(run: number, parents: readonly number[]): string[] {
  const lineage = [`run-${run}`];
  for (let at = run; at > 0; at = parents[at]!) lineage.push(`run-${parents[at]}`);
  return lineage;
}

/** Whether a record is wanted, in the tree that `parents` says. */
export function isWanted(
  { scope, types }: Wanted,
  record: SequencedEvent,
  parents: readonly number[],
): boolean {
  if (!matches(scope, lineageOf(Number(record.runId.slice(4)), parents))) return false;
  if (record.record.case !== "event" || types.length === 0) return true;
  const { type } = record.record.value;
  return types.some((p) => (p.endsWith("*") ? type.startsWith(p.slice(0, -1)) : p === type));
}
