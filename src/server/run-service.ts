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
import type { Within } from "../subtree.ts";
import {
  checkLength,
  checkNamespace,
  checkPairs,
  checkPlace,
  checkRunId,
  checkSpec,
} from "../validate.ts";
import type { Caller } from "./auth/caller.ts";
import { toRun } from "./messages.ts";
import { parsePageSize } from "./page-size.ts";
import { type ServiceContext, unary } from "./service-context.ts";

/** Implements RunService. */
export function runService(context: ServiceContext): ServiceImpl<typeof RunService> {
  const { journal, cancellations, limits } = context;
  return {
    createRun: unary(context, async (request, signal, caller) => {
      return { run: await createRun(context, request, undefined, signal, caller) };
    }),
    getRun: unary(context, async (request, _, { rights }) => {
      const namespace = checkNamespace("namespace", request.namespace);
      const { runId } = request;
      checkRunId("run_id", runId);
      const within = rights.within("read", namespace);
      return { run: toRun(namespace, await getRun(journal, namespace, runId, within)) };
    }),
    listRuns: unary(context, async (request, _, { rights }) => {
      const namespace = checkNamespace("namespace", request.namespace);
      const within = rights.within("read", namespace);
      const page = await listRuns(journal, namespace, parseListing(request, limits, within));
      return {
        runs: page.runs.map((run) => toRun(namespace, run)),
        nextPageToken: page.nextBeforeKey === undefined ? "" : String(page.nextBeforeKey),
        asOfSeq: BigInt(page.asOfSeq),
      };
    }),
    forkRun: unary(context, async (request, signal, caller) => {
      checkRunId("source_run_id", request.sourceRunId);
      const runSeq = checkPlace("run_seq", request.runSeq);
      const within = caller.rights.within("read", checkNamespace("namespace", request.namespace));
      const fork = { sourceRunId: request.sourceRunId, runSeq, within };
      return { run: await createRun(context, request, fork, signal, caller) };
    }),
    cancelRun: unary(
      context,
      async ({ runId, includeDescendants, reason, ...rest }, _, { rights }) => {
        const namespace = checkNamespace("namespace", rest.namespace);
        checkRunId("run_id", runId);
        checkLength("reason", reason, maxReasonBytes);
        const within = rights.within("cancel", namespace);
        const request = { namespace, runId, includeDescendants, reason, within };
        const runCount = await cancellations.cancel(request);
        return { runCount };
      },
    ),
    signalRun: unary(context, async (request, _, { identity, rights }) => {
      const within = rights.within("signal", checkNamespace("namespace", request.namespace));
      const sent = await signalRun(context, request, identity, within);
      const { seq, signalSeq, signalId } = sent;
      return { seq: BigInt(seq), signalSeq: BigInt(signalSeq), signalId };
    }),
  };
}

async function createRun(
  { committer, limits }: ServiceContext,
  request: CreateRunRequest | ForkRunRequest,
  fork: Fork | undefined,
  signal: AbortSignal,
  { rights, usage }: Caller,
): Promise<Run> {
  const namespace = checkNamespace("namespace", request.namespace);
  const runId = request.runId === "" ? uuidv7() : request.runId;
  checkRunId("run_id", runId);
  const spec = request.spec ?? create(RunSpecSchema);
  checkSpec("spec", spec, limits);
  const within = rights.within("ingest", namespace);
  const creation = usage?.creation();
  const operation = { kind: "create", namespace, runId, spec, fork, within, creation } as const;
  const outcome = await committer.submit(operation, signal);
  if (outcome.t === "discarded") throw signal.reason;
  if (outcome.t === "refused") throw new RefusedError(outcome.refusal);
  if (outcome.t !== "created") throw new Error(`a create was answered ${outcome.t}`);
  return toRun(namespace, outcome.run);
}

function parseListing(request: ListRunsRequest, { readBytes }: Limits, within: Within): RunListing {
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
    within,
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
