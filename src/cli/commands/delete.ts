/** `runlog delete`: a tree of ended runs, with all its records. */
import { type Client, createClient } from "@connectrpc/connect";
import { Command } from "commander";
import { AdminService, type DeleteTreeResponse } from "../../../gen/runlog/v1/admin_pb.js";
import { type Run, RunService } from "../../../gen/runlog/v1/run_pb.js";
import { confirm } from "../confirm.ts";
import { type ConnectionFlags, callServer, connectBy } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { CommandError, exitStatus, exitStatusHelp, reasonOf } from "../failure.ts";
import { addConfirmFlag, addConnectionFlags, type ConfirmFlags } from "../flags.ts";
import { notice, stdout } from "../output.ts";
import { runName } from "../run-names.ts";
import { countText, printable, sizeText } from "../text.ts";

/** Descendants that are counted before asking; more are "more than" so many. */
const countedRuns = 1_000;

interface DeleteFlags extends ConnectionFlags, ConfirmFlags {}

/** Builds the command; `exit` takes the status. */
export function deleteCommand(exit: (status: number) => void): Command {
  return addConfirmFlag(addConnectionFlags(new Command("delete")))
    .description("Delete a root run and all its descendants, with all their records.")
    .argument("<root-run-id>", "the root of the tree")
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (rootRunId: string, flags: DeleteFlags) => {
      await deleteTree(rootRunId, flags);
      exit(exitStatus.ok);
    });
}

const help = `
Asks first; without a terminal, use --yes. All runs of the tree must have ended,
and no fork in another tree may inherit from them.

Examples:
  $ runlog delete ROOT
  $ runlog delete ROOT --yes --namespace staging
`;

async function deleteTree(rootRunId: string, flags: DeleteFlags): Promise<void> {
  const connection = connectBy(flags);
  const runs = createClient(RunService, connection.transport);
  try {
    await confirm({
      yes: flags.yes ?? false,
      what: "deleting a tree",
      details: () => describeTree(runs, rootRunId, flags),
    });
    // Looked up in any case: see below, where the answer may be lost.
    await findRoot(runs, rootRunId, flags);
    const admin = createClient(AdminService, connection.transport);
    const deleted = await deleteOnce(admin, rootRunId, flags);
    if (deleted === undefined) {
      notice("the answer to the first attempt was lost, so the counts are unknown");
      await stdout.write(`deleted the tree of run ${printable(rootRunId)}\n`);
    } else {
      const { runCount, recordCount } = deleted;
      await stdout.write(
        `deleted ${countText(runCount, "run")} and ${countText(recordCount, "record")}\n`,
      );
    }
  } finally {
    connection.close();
  }
}

/** Undefined where the tree was gone at a second attempt, after an answer that never came. */
async function deleteOnce(
  admin: Client<typeof AdminService>,
  rootRunId: string,
  flags: DeleteFlags,
): Promise<DeleteTreeResponse | undefined> {
  const request = { namespace: flags.namespace, rootRunId };
  let attempts = 0;
  try {
    return await callServer(flags, (options) => {
      attempts++;
      return admin.deleteTree(request, options);
    });
  } catch (error) {
    if (attempts > 1 && reasonOf(error) === "RUN_NOT_FOUND") return undefined;
    throw error;
  }
}

async function findRoot(
  runs: Client<typeof RunService>,
  rootRunId: string,
  flags: DeleteFlags,
): Promise<Run> {
  const request = { namespace: flags.namespace, runId: rootRunId };
  const { run } = await callServer(flags, (options) => runs.getRun(request, options));
  if (run === undefined)
    throw new CommandError("the server answered without a run: is it as new as this runlog?");
  if (run.rootRunId !== run.runId) {
    throw new CommandError(
      `run ${JSON.stringify(rootRunId)} is not a root: delete the whole tree, whose root is ${run.rootRunId}`,
    );
  }
  return run;
}

/** What would be deleted, by one page of runs. */
async function describeTree(
  runs: Client<typeof RunService>,
  rootRunId: string,
  flags: DeleteFlags,
): Promise<string> {
  const root = await findRoot(runs, rootRunId, flags);
  const request = {
    namespace: flags.namespace,
    ancestorRunId: rootRunId,
    pageSize: countedRuns,
  };
  const page = await callServer(flags, (options) => runs.listRuns(request, options));
  const all = [root, ...page.runs];
  const more = page.nextPageToken === "" ? "" : "more than ";
  const events = all.reduce((sum, run) => sum + run.lastRunSeq, 0n);
  const bytes = all.reduce((sum, run) => sum + run.eventBytes, 0n);
  return (
    `Run ${printable(rootRunId)} (${printable(runName(rootRunId, root.spec))}) and its descendants, ` +
    `${more}${countText(all.length, "run")} with ${more}${countText(events, "event")} ` +
    `(${sizeText(Number(bytes))}), will be deleted for good.`
  );
}
