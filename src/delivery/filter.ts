/** Which records a subscriber wants: parsed once, matched by a record's lineage and types. */
import type { EventFilter } from "../../gen/runlog/v1/record_pb.js";
import type { CommittedRecord } from "../journal/committed-record.ts";
import { maxFilterRunIds } from "../limits.ts";
import { invalidField, RefusedError } from "../refusal.ts";
import type { Within } from "../subtree.ts";
import { checkRunId } from "../validate.ts";
import { KindFilter } from "./kind-filter.ts";
import { TypeFilter } from "./type-filter.ts";

/**
 * The events that a fork inherits from one run: those up to its fork point,
 * without facts. They never change, and all lie before the fork's own.
 */
export interface InheritedEvents {
  readonly runId: string;
  readonly runKey: number;
  /** seq of the last one. */
  readonly throughSeq: number;
  /** seq at which the record ends that holds it. */
  readonly recordEndSeq: number;
}

/** Where the runs that a scope names have to lie: one outside is as one that does not exist. */
interface Narrowed {
  /** Not set: anywhere. Of a run that lies there, all descendants do. */
  readonly within?: Within;
}

/** Whose records; runs are named by their ids. */
export type Scope =
  | { readonly kind: "all" }
  | ({
      readonly kind: "ancestor";
      readonly ancestorId: string;
      readonly includeSelf: boolean;
      /** Edges below the ancestor; Infinity for any depth. */
      readonly maxDepth: number;
    } & Narrowed)
  | ({
      readonly kind: "runs";
      readonly runIds: readonly string[];
      /** Set where forks come with what they inherit; empty until it has been looked up. */
      readonly inherited?: readonly InheritedEvents[];
    } & Narrowed);

/** A scope, and which of its records are wanted. */
export interface Filter {
  readonly scope: Scope;
  /** Undefined: every type. */
  readonly types: TypeFilter | undefined;
  /** Undefined: every kind. */
  readonly kinds: KindFilter | undefined;
}

/** Whether a filter wants no producers' events, so that they need not be looked at. */
export function isWithoutEvents({ kinds }: Pick<Filter, "kinds">): boolean {
  return kinds !== undefined && !kinds.hasEvents;
}

/**
 * Checks a filter.
 *
 * @throws RefusedError with the field at fault
 */
export function parseFilter(field: string, filter: EventFilter | undefined): Filter {
  return {
    scope: parseScope(field, filter?.scope),
    types: TypeFilter.parse(`${field}.event_types`, filter?.eventTypes ?? []),
    kinds: KindFilter.parse(`${field}.kinds`, filter?.kinds ?? []),
  };
}

/**
 * Narrows a filter to where its subscriber may read.
 *
 * @throws RefusedError permission where it asks for more, whatever there is
 */
export function narrow(field: string, filter: Filter, within: Within): Filter {
  if (within === undefined) return filter;
  const { scope } = filter;
  if (scope.kind === "all") {
    const problem = `${field}.all: needs the permission to read the whole namespace: name an ancestor, or run ids, of the token's subtree`;
    throw new RefusedError({ reason: "permission", problem });
  }
  return { ...filter, scope: { ...scope, within } };
}

function parseScope(field: string, scope: EventFilter["scope"] | undefined): Scope {
  switch (scope?.case) {
    case "all":
      return { kind: "all" };
    case "ancestor": {
      const { ancestorRunId, includeSelf, maxDepth } = scope.value;
      checkRunId(`${field}.ancestor.ancestor_run_id`, ancestorRunId);
      return {
        kind: "ancestor",
        ancestorId: ancestorRunId,
        includeSelf,
        maxDepth: maxDepth === 0 ? Number.POSITIVE_INFINITY : maxDepth,
      };
    }
    case "runIds": {
      const { runIds, includeInherited } = scope.value;
      const got = runIds.length;
      if (got > maxFilterRunIds) {
        throw new RefusedError({ reason: "run_id_limit", limit: maxFilterRunIds, got });
      }
      if (got === 0) throw invalidField(`${field}.run_ids.run_ids`, "is empty");
      runIds.forEach((runId, index) => {
        checkRunId(`${field}.run_ids.run_ids[${index}]`, runId);
      });
      return {
        kind: "runs",
        runIds: [...new Set(runIds)],
        ...(includeInherited ? { inherited: [] } : {}),
      };
    }
    default:
      throw invalidField(`${field}.scope`, "is missing: set ancestor, run_ids or all");
  }
}

/** Whether a record of the run with this lineage (the run first, its root last) is wanted. */
export function matches(scope: Scope, lineage: readonly string[]): boolean {
  switch (scope.kind) {
    case "all":
      return true;
    case "runs":
      return scope.runIds.includes(lineage[0]!);
    case "ancestor": {
      const edges = lineage.indexOf(scope.ancestorId);
      if (edges === 0) return scope.includeSelf;
      return edges > 0 && edges <= scope.maxDepth;
    }
  }
}

/** Whether a record holds something that the scope wants; of the last inherited one, a part. */
export function matchesRecord(
  scope: Scope,
  { lineage, types, firstSeq }: Pick<CommittedRecord, "lineage" | "types" | "firstSeq">,
): boolean {
  if (matches(scope, lineage)) return true;
  if (scope.kind !== "runs" || scope.inherited === undefined || types === "") return false;
  return scope.inherited.some(
    ({ runId, throughSeq }) => runId === lineage[0] && firstSeq <= throughSeq,
  );
}
