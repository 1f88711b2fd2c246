/** Which records a filter lets pass, computed from the whole journal. */
import type { SeenFilter, SeenRecord } from "./entry.ts";

/** What is known of runs from their starts. */
export type Family = ReadonlyMap<string, Pick<SeenRecord, "parent" | "fork">>;

/** The family of all runs of a journal. */
export function familyOf(records: readonly SeenRecord[]): Family {
  return new Map(records.filter(({ kind }) => kind === "started").map((one) => [one.run, one]));
}

/** Whether a subscriber of this filter receives the record. */
export function matches(filter: SeenFilter, record: SeenRecord, family: Family): boolean {
  return (
    isOfKind(filter, record) &&
    isInScope(filter, record, family) &&
    (kindOf(record) === "lifecycle" || isOfType(filter, record))
  );
}

function isOfKind({ kinds = [] }: SeenFilter, record: SeenRecord): boolean {
  return kinds.length === 0 || kinds.includes(kindOf(record));
}

function kindOf({ kind }: SeenRecord): "event" | "signal" | "lifecycle" {
  return kind === "event" || kind === "signal" ? kind : "lifecycle";
}

function isOfType({ types }: SeenFilter, { type = "" }: SeenRecord): boolean {
  if (types.length === 0) return true;
  return types.some((one) =>
    one.endsWith("*") ? type.startsWith(one.slice(0, -1)) : type === one,
  );
}

function isInScope({ scope }: SeenFilter, record: SeenRecord, family: Family): boolean {
  switch (scope.t) {
    case "all":
      return true;
    case "runs":
      return (
        scope.runs.includes(record.run) ||
        (scope.inherited === true && scope.runs.some((run) => isInherited(run, record, family)))
      );
    case "ancestor": {
      const depth = depthBelow(record.run, scope.run, family);
      if (depth === undefined) return false;
      if (depth === 0) return scope.includesSelf;
      return scope.maxDepth === 0 || depth <= scope.maxDepth;
    }
  }
}

/** Edges from an ancestor to a run. */
function depthBelow(run: string, ancestor: string, family: Family): number | undefined {
  let depth = 0;
  for (let at: string | undefined = run; at !== undefined && at !== ""; depth++) {
    if (at === ancestor) return depth;
    at = family.get(at)?.parent;
  }
  return undefined;
}

/** Events of the sources up to the fork points, over forks of forks; not the sources' facts. No source has signals here. */
function isInherited(run: string, record: SeenRecord, family: Family): boolean {
  if (record.kind !== "event") return false;
  let limit = Number.POSITIVE_INFINITY;
  for (let fork = family.get(run)?.fork; fork !== undefined; fork = family.get(fork.run)?.fork) {
    limit = fork.runSeq;
    if (record.run === fork.run && record.runSeq <= limit) return true;
  }
  return false;
}
