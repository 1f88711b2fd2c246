/** What a filter wants of random trees, told by the test itself. */
import type { Event } from "../../gen/runlog/v1/event_pb.js";
import { RecordKind, type SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { type Filter, matches, type Scope } from "../../src/delivery/filter.ts";
import { KindFilter } from "../../src/delivery/kind-filter.ts";
import { TypeFilter } from "../../src/delivery/type-filter.ts";

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

/** What a reader asks for: a scope, patterns of types, and kinds. */
export interface Wanted {
  readonly scope: Scope;
  readonly types: readonly string[];
  /** Unset: every kind. */
  readonly kinds?: readonly RecordKind[];
}

/** The filter that asks for it. */
export function toFilter({ scope, types, kinds = [] }: Wanted): Filter {
  return {
    scope,
    types: TypeFilter.parse("event_types", types),
    kinds: KindFilter.parse("kinds", kinds),
  };
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

/** Kinds that are asked for together. */
export const kindChoices: readonly (readonly RecordKind[])[] = [
  [],
  [RecordKind.EVENT],
  [RecordKind.SIGNAL],
  [RecordKind.LIFECYCLE],
  [RecordKind.LIFECYCLE, RecordKind.SIGNAL],
  [RecordKind.SIGNAL, RecordKind.EVENT],
];

/** Lineages as the test built them, root last. */
function lineageOf(run: number, parents: readonly number[]): string[] {
  const lineage = [`run-${run}`];
  for (let at = run; at > 0; at = parents[at]!) lineage.push(`run-${parents[at]}`);
  return lineage;
}

/** Whether a record is wanted, in the tree that `parents` says. */
export function isWanted(
  { scope, types, kinds = [] }: Wanted,
  record: SequencedEvent,
  parents: readonly number[],
): boolean {
  if (!matches(scope, lineageOf(Number(record.runId.slice(4)), parents))) return false;
  if (kinds.length > 0 && !kinds.includes(kindOf(record))) return false;
  const event = eventIn(record);
  if (event === undefined || types.length === 0) return true;
  const { type } = event;
  return types.some((p) => (p.endsWith("*") ? type.startsWith(p.slice(0, -1)) : p === type));
}

function kindOf({ record }: SequencedEvent): RecordKind {
  if (record.case === "event") return RecordKind.EVENT;
  return record.case === "signal" ? RecordKind.SIGNAL : RecordKind.LIFECYCLE;
}

/** What a producer or a sender wrote. */
function eventIn({ record }: SequencedEvent): Event | undefined {
  if (record.case === "event") return record.value;
  return record.case === "signal" ? record.value.event : undefined;
}
