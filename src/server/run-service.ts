/** RunService over the engine. */
import { create } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { v7 as uuidv7 } from "uuid";
import {
  type CreateRunRequest,
  type ForkRunRequest,
  type ListRunsRequest,
  type Run,
  type RunService,
  RunSpecSchema,
  RunState,
} from "../../gen/runlog/v1/run_pb.js";
import { getRun, listRuns, type RunListing } from "../delivery/run-directory.ts";
import type { Fork } from "../ingest/operation.ts";
import { signalRun } from "../ingest/signal-run.ts";
import {
  type Limits,
  limitSpecs,
  maxLabelValueBytes,
  maxListedStates,
  maxReasonBytes,
  maxSpecStringBytes,
} from "../limits.ts";
import { invalidField, RefusedError } from "../refusal.ts";
import {
  checkLength,
  checkNamespace,
  checkPairs,
  checkPlace,
  checkRunId,
  checkSpec,
} from "../validate.ts";
import { toRun } from "./messages.ts";
import { parsePageSize } from "./page-size.ts";
import { type ServiceContext, unary } from "./service-context.ts";

/** Implements RunService. */
export function runService(context: ServiceContext): ServiceImpl<typeof RunService> {
  const { journal, cancellations, limits } = context;
  return {
    createRun: unary(context, async (request, signal) => {
      return { run: await createRun(context, request, undefined, signal) };
    }),
    getRun: unary(context, async (request) => {
      const namespace = checkNamespace("namespace", request.namespace);
      checkRunId("run_id", request.runId);
      return { run: toRun(namespace, await getRun(journal, namespace, request.runId)) };
    }),
    listRuns: unary(context, async (request) => {
      const namespace = checkNamespace("namespace", request.namespace);
      const page = await listRuns(journal, namespace, parseListing(request, limits));
      return {
        runs: page.runs.map((run) => toRun(namespace, run)),
        nextPageToken: page.nextBeforeKey === undefined ? "" : String(page.nextBeforeKey),
        asOfSeq: BigInt(page.asOfSeq),
      };
    }),
    forkRun: unary(context, async (request, signal) => {
      checkRunId("source_run_id", request.sourceRunId);
      const runSeq = checkPlace("run_seq", request.runSeq);
      const fork = { sourceRunId: request.sourceRunId, runSeq };
      return { run: await createRun(context, request, fork, signal) };
    }),
    cancelRun: unary(context, async ({ namespace, runId, includeDescendants, reason }) => {
      checkRunId("run_id", runId);
      checkLength("reason", reason, maxReasonBytes);
      const runCount = await cancellations.cancel({
        namespace: checkNamespace("namespace", namespace),
        runId,
        includeDescendants,
        reason,
      });
      return { runCount };
    }),
    signalRun: unary(context, async (request) => {
      // Callers are not authenticated, so nobody is known.
      const { seq, signalSeq, signalId } = await signalRun(context, request, "");
      return { seq: BigInt(seq), signalSeq: BigInt(signalSeq), signalId };
    }),
  };
}

async function createRun(
  { committer, limits }: ServiceContext,
  request: CreateRunRequest | ForkRunRequest,
  fork: Fork | undefined,
  signal: AbortSignal,
): Promise<Run> {
  const namespace = checkNamespace("namespace", request.namespace);
  const runId = request.runId === "" ? uuidv7() : request.runId;
  checkRunId("run_id", runId);
  const spec = request.spec ?? create(RunSpecSchema);
  checkSpec("spec", spec, limits);
  const operation = { kind: "create", namespace, runId, spec, fork } as const;
  const outcome = await committer.submit(operation, signal);
  if (outcome.t === "discarded") throw signal.reason;
  if (outcome.t === "refused") throw new RefusedError(outcome.refusal);
  if (outcome.t !== "created") throw new Error(`a create was answered ${outcome.t}`);
  return toRun(namespace, outcome.run);
}

function parseListing(request: ListRunsRequest, { readBytes }: Limits): RunListing {
  const { parentRunId, ancestorRunId, conversationId, states, labels, pageSize, pageToken } =
    request;
  const { agentId, runIdPrefix, createdFrom, createdBefore, hasPendingSignals } = request;
  if (parentRunId !== "") checkRunId("parent_run_id", parentRunId);
  if (ancestorRunId !== "") checkRunId("ancestor_run_id", ancestorRunId);
  if (runIdPrefix !== "") checkRunId("run_id_prefix", runIdPrefix);
  checkLength("agent_id", agentId, maxSpecStringBytes);
  checkLength("conversation_id", conversationId, maxSpecStringBytes);
  checkPairs("labels", labels, limitSpecs.maxLabels.range.max, maxLabelValueBytes);
  return {
    parentRunId: parentRunId === "" ? undefined : parentRunId,
    ancestorRunId: ancestorRunId === "" ? undefined : ancestorRunId,
    conversationId: conversationId === "" ? undefined : conversationId,
    states: states.length === 0 ? undefined : parseStates(states),
    labels,
    agentId: agentId === "" ? undefined : agentId,
    runIdPrefix: runIdPrefix === "" ? undefined : runIdPrefix,
    createdFromMs: createdFrom && msFrom(createdFrom),
    createdBeforeMs: createdBefore && msFrom(createdBefore),
    hasPendingSignals,
    pageSize: parsePageSize(pageSize),
    maxBytes: readBytes,
    beforeKey: pageToken === "" ? undefined : parsePageToken(pageToken),
  };
}

/** The first millisecond that is not before a moment: runs are created at whole ones. */
function msFrom({ seconds, nanos }: Timestamp): number {
  return Number(seconds) * 1000 + Math.ceil(nanos / 1e6);
}

function parseStates(states: readonly RunState[]): readonly RunState[] {
  if (states.length > maxListedStates) {
    throw invalidField("states", `has more than ${maxListedStates} states`, maxListedStates);
  }
  states.forEach((state, index) => {
    if (state === RunState.UNSPECIFIED || RunState[state] === undefined) {
      throw invalidField(`states[${index}]`, `has the unknown value ${state}`);
    }
  });
  return [...new Set(states)];
}

function parsePageToken(pageToken: string): number {
  const beforeKey = /^[1-9]\d{0,15}$/.test(pageToken) ? Number(pageToken) : Number.NaN;
  if (Number.isSafeInteger(beforeKey)) return beforeKey;
  throw invalidField("page_token", "is not the next_page_token of an earlier page");
}
