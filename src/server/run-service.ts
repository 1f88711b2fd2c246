/** RunService over the domain. */
import { create } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import { v7 as uuidv7 } from "uuid";
import {
  type ListRunsRequest,
  type RunService,
  RunSpecSchema,
} from "../../gen/runlog/v1/run_pb.js";
import { getRun, listRuns, type RunListing } from "../delivery/run-directory.ts";
import { checkNamespace, checkRunId, checkSpec } from "../ingest/validate.ts";
import { invalidField, RefusedError } from "../journal/refusal.ts";
import { defaultPageSize, maxPageSize } from "../limits.ts";
import { toRun } from "./messages.ts";
import { notYet, type ServiceContext, unary } from "./service-context.ts";

/** Implements RunService. */
export function runService(context: ServiceContext): ServiceImpl<typeof RunService> {
  const { journal, committer } = context;
  return {
    createRun: unary(context, async (request) => {
      const namespace = checkNamespace("namespace", request.namespace);
      const runId = request.runId === "" ? uuidv7() : request.runId;
      checkRunId("run_id", runId);
      const spec = request.spec ?? create(RunSpecSchema);
      checkSpec("spec", spec);
      const outcome = await committer.submit({ kind: "create", namespace, runId, spec });
      if (outcome.t === "refused") throw new RefusedError(outcome.refusal);
      if (outcome.t !== "created") throw new Error(`a create was answered ${outcome.t}`);
      return { run: toRun(namespace, outcome.run) };
    }),
    getRun: unary(context, async (request) => {
      const namespace = checkNamespace("namespace", request.namespace);
      checkRunId("run_id", request.runId);
      return { run: toRun(namespace, await getRun(journal, namespace, request.runId)) };
    }),
    listRuns: unary(context, async (request) => {
      const namespace = checkNamespace("namespace", request.namespace);
      const page = await listRuns(journal, namespace, parseListing(request));
      return {
        runs: page.runs.map((run) => toRun(namespace, run)),
        nextPageToken: page.nextBeforeKey === undefined ? "" : String(page.nextBeforeKey),
      };
    }),
    forkRun: notYet(context, "ForkRun"),
    cancelRun: notYet(context, "CancelRun"),
  };
}

function parseListing(request: ListRunsRequest): RunListing {
  const { parentRunId, ancestorRunId, conversationId, states, labels, pageSize, pageToken } =
    request;
  if (pageSize > maxPageSize) {
    throw invalidField("page_size", `is at most ${maxPageSize}`, maxPageSize);
  }
  if (pageToken !== "" && !/^[1-9]\d{0,15}$/.test(pageToken)) {
    throw invalidField("page_token", "is not the next_page_token of a page before");
  }
  return {
    parentRunId: parentRunId === "" ? undefined : parentRunId,
    ancestorRunId: ancestorRunId === "" ? undefined : ancestorRunId,
    conversationId: conversationId === "" ? undefined : conversationId,
    states: states.length === 0 ? undefined : states,
    labels,
    pageSize: pageSize === 0 ? defaultPageSize : pageSize,
    beforeKey: pageToken === "" ? undefined : Number(pageToken),
  };
}
