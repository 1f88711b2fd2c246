/**
 * One row for each method of the contract: how it is called on a run, and what it
 * takes. A method without a row fails the table.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { Permission } from "../../gen/runlog/v1/auth_pb.js";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import { collect, type WireClient } from "../support/wire.ts";

/** On what a method is called. */
export interface Target {
  readonly namespace: string;
  /** A run, which has ended; or an id that no run has. */
  readonly runId: string;
  /** Unused until now. */
  readonly newRunId: string;
}

/** A method. */
export interface MethodRow {
  /** All that a caller needs for it; none: to be known. */
  readonly permissions: readonly string[];
  /** Calls it so that it succeeds, where the run exists; throws what it is refused with. */
  readonly call: (client: WireClient, target: Target) => Promise<unknown>;
  /** What a caller gets who has all of that in a subtree only. Default: "run". */
  readonly narrowed?: "run" | "refused";
  /** Whether it concerns all namespaces in which the caller may call it. */
  readonly isEverywhere?: boolean;
  /** Whether the answer comes while requests may follow. */
  readonly isBidirectional?: boolean;
}

/** A refusal inside a stream, as if the call had been refused. */
function refusedBy(detail: { readonly reason: Reason } | undefined, message: string): ConnectError {
  const details = [{ desc: ErrorDetailSchema, value: { reason: detail?.reason ?? 0 } }];
  return new ConnectError(message, Code.Unknown, undefined, details);
}

const runIdsScope = ({ runId }: Target) => ({
  scope: { case: "runIds" as const, value: { runIds: [runId] } },
});
const ancestorScope = ({ runId }: Target) => ({
  scope: { case: "ancestor" as const, value: { ancestorRunId: runId, includeSelf: true } },
});

async function* one<T>(item: T): AsyncGenerator<T> {
  yield item;
}

/** By service and method. */
export const methodRows: Readonly<Record<string, MethodRow>> = {
  "runlog.v1.RunService.CreateRun": {
    permissions: ["ingest"],
    call: ({ runs }, { namespace, runId, newRunId }) =>
      runs.createRun({ namespace, runId: newRunId, spec: { parentRunId: runId } }),
  },
  "runlog.v1.RunService.GetRun": {
    permissions: ["read"],
    call: ({ runs }, { namespace, runId }) => runs.getRun({ namespace, runId }),
  },
  "runlog.v1.RunService.ListRuns": {
    permissions: ["read"],
    call: ({ runs }, { namespace, runId }) => runs.listRuns({ namespace, ancestorRunId: runId }),
  },
  "runlog.v1.RunService.ForkRun": {
    permissions: ["ingest", "read"],
    call: ({ runs }, { namespace, runId, newRunId }) =>
      runs.forkRun({
        namespace,
        sourceRunId: runId,
        runSeq: 1n,
        runId: newRunId,
        spec: { parentRunId: runId },
      }),
  },
  "runlog.v1.RunService.CancelRun": {
    permissions: ["cancel"],
    call: ({ runs }, { namespace, runId }) => runs.cancelRun({ namespace, runId }),
  },
  "runlog.v1.RunService.SignalRun": {
    permissions: ["signal"],
    call: ({ runs }, { namespace, runId }) =>
      runs.signalRun({ namespace, runId, event: { type: "test" } }),
  },
  "runlog.v1.IngestService.Ingest": {
    permissions: ["ingest"],
    isBidirectional: true,
    async call({ ingest }, { namespace, runId }) {
      const open = { case: "open" as const, value: { namespace, runId } };
      const [answer] = await collect(ingest.ingest(one({ frame: open })));
      if (answer?.frame.case !== "rejected") return;
      throw refusedBy(answer.frame.value.detail, answer.frame.value.message);
    },
  },
  "runlog.v1.IngestService.AppendEvents": {
    permissions: ["ingest"],
    call: ({ ingest }, { namespace, runId }) => ingest.appendEvents({ namespace, runId }),
  },
  "runlog.v1.SubscribeService.Subscribe": {
    permissions: ["read"],
    call: ({ subscribe }, target) =>
      collect(
        subscribe.subscribe({
          namespace: target.namespace,
          filter: ancestorScope(target),
          stop: StopPolicy.CAUGHT_UP,
        }),
      ),
  },
  "runlog.v1.SubscribeService.Watch": {
    permissions: ["read"],
    isBidirectional: true,
    async call({ subscribe }, target) {
      const { namespace } = target;
      const request = { namespace, filter: runIdsScope(target), stop: StopPolicy.CAUGHT_UP };
      const start = { case: "start" as const, value: { request } };
      const answers = await collect(subscribe.watch(one({ subscriptionId: 1, frame: start })));
      const frame = answers.at(-1)?.frame;
      if (frame?.case !== "ended") throw new Error("the subscription did not end");
      if (frame.value.detail === undefined) return;
      throw refusedBy(frame.value.detail, frame.value.message);
    },
  },
  "runlog.v1.SubscribeService.SubscribeMany": {
    permissions: ["read"],
    async call({ subscribe }, target) {
      const { namespace } = target;
      const request = { namespace, filter: ancestorScope(target), stop: StopPolicy.CAUGHT_UP };
      const subscriptions = [{ subscriptionId: 1, request }];
      const answers = await collect(subscribe.subscribeMany({ subscriptions }));
      const frame = answers.at(-1)?.frame;
      if (frame?.case !== "ended") throw new Error("the subscription did not end");
      if (frame.value.detail === undefined) return;
      throw refusedBy(frame.value.detail, frame.value.message);
    },
  },
  "runlog.v1.SubscribeService.ReadEvents": {
    permissions: ["read"],
    call: ({ subscribe }, target) =>
      subscribe.readEvents({ namespace: target.namespace, filter: runIdsScope(target) }),
  },
  "runlog.v1.AuthService.WhoAmI": {
    permissions: [],
    call: ({ auth }) => auth.whoAmI({}),
  },
  "runlog.v1.AuthService.MintToken": {
    // Of the permission that is handed on.
    permissions: ["signal"],
    call: ({ auth }, { namespace, runId }) => {
      const permissions = [Permission.SIGNAL];
      return auth.mintToken({ grants: [{ namespace, ancestor: { runId }, permissions }] });
    },
  },
  "runlog.v1.AdminService.ListNamespaces": {
    permissions: ["admin"],
    isEverywhere: true,
    narrowed: "refused",
    call: ({ admin }) => admin.listNamespaces({}),
  },
  "runlog.v1.AdminService.SetRetention": {
    permissions: ["admin"],
    narrowed: "refused",
    call: ({ admin }, { namespace }) => admin.setRetention({ namespace }),
  },
  "runlog.v1.AdminService.DeleteTree": {
    permissions: ["admin"],
    // A tree has other runs: that of the table has some that run.
    call: async ({ admin }, { namespace, runId }) => {
      try {
        return await admin.deleteTree({ namespace, rootRunId: runId });
      } catch (error) {
        const [detail] = ConnectError.from(error).findDetails(ErrorDetailSchema);
        if (detail?.reason === Reason.INVALID_FIELD && detail.field === "root_run_id") return {};
        throw error;
      }
    },
  },
};
