/** AdminService over the engine. */
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { AdminService, SetRetentionRequest } from "../../gen/runlog/v1/admin_pb.js";
import { maxRetentionMs, minRetentionMs } from "../limits.ts";
import { readNamespaces } from "../maintenance/namespace-directory.ts";
import { invalidField, RefusedError } from "../refusal.ts";
import { checkNamespace, checkRunId } from "../validate.ts";
import { toNamespace } from "./messages.ts";
import { parsePageSize } from "./page-size.ts";
import { type ServiceContext, unary } from "./service-context.ts";

/** Implements AdminService. */
export function adminService(context: ServiceContext): ServiceImpl<typeof AdminService> {
  const { journal, deletions, retention, retentionSettings, clock } = context;
  return {
    listNamespaces: unary(context, async ({ pageSize, pageToken }, _, { rights }) => {
      // The token is the last name of the page before.
      const afterName = pageToken === "" ? "" : checkNamespace("page_token", pageToken);
      const only = rights.namespacesOf("admin");
      const page = await readNamespaces(journal, afterName, parsePageSize(pageSize), only);
      return {
        namespaces: page.namespaces.map(toNamespace),
        nextPageToken: page.nextAfterName ?? "",
      };
    }),
    setRetention: unary(context, async (request, _, { rights }) => {
      const name = checkNamespace("namespace", request.namespace);
      const retentionMs = parseRetention(request);
      rights.requireWhole("admin", name);
      const namespace = await retentionSettings.set(name, retentionMs, clock.now());
      retention.lookAt(name);
      return { namespace: toNamespace(namespace) };
    }),
    deleteTree: unary(context, async (request, _, { rights }) => {
      const namespace = checkNamespace("namespace", request.namespace);
      checkRunId("root_run_id", request.rootRunId);
      const within = rights.within("admin", namespace);
      const deleting = deletions.delete(namespace, request.rootRunId, undefined, within);
      const deleted = await deleting.catch((error: unknown) => {
        throw within === undefined ? error : withoutFork(error);
      });
      if (deleted === undefined) throw new Error("a tree was left alone without a reason");
      return { runCount: deleted.runCount, recordCount: BigInt(deleted.recordCount) };
    }),
  };
}

/** A refusal that does not name a fork, which is in another tree. */
function withoutFork(error: unknown): unknown {
  if (!(error instanceof RefusedError)) return error;
  const { refusal } = error;
  if (refusal.reason !== "tree_in_use" || refusal.by !== "fork") return error;
  return new RefusedError({ ...refusal, runId: undefined });
}

/** Milliseconds; null for ever. */
function parseRetention({ retention }: SetRetentionRequest): number | null {
  if (retention === undefined) return null;
  const retentionMs = durationMs(retention);
  if (retentionMs >= minRetentionMs && retentionMs <= maxRetentionMs) return retentionMs;
  const range = `${durationFromMs(minRetentionMs).seconds} s to ${durationFromMs(maxRetentionMs).seconds} s`;
  throw invalidField("retention", `must be from ${range}: leave it out to keep trees forever`);
}
