/** `runlog cancel`: asks producers to stop. */
import { createClient } from "@connectrpc/connect";
import { Command } from "commander";
import { RunService } from "../../../gen/runlog/v1/run_pb.js";
import { type ConnectionFlags, callServer } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { exitStatus, exitStatusHelp } from "../failure.ts";
import { addConnectionFlags } from "../flags.ts";
import { inNamespace } from "../namespaces.ts";
import { stdout } from "../output.ts";
import { countText } from "../text.ts";

interface CancelFlags extends ConnectionFlags {
  readonly descendants?: true;
  readonly reason?: string;
}

/** Builds the command; `exit` takes the status. */
export function cancelCommand(exit: (status: number) => void): Command {
  return addConnectionFlags(new Command("cancel"))
    .description("Ask the producer of a run to stop.")
    .argument("<run-id>", "the run")
    .option("--descendants", "also ask all descendants of the run")
    .option("--reason <text>", "the reason, which the producers receive")
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (runId: string, flags: CancelFlags) => {
      await cancel(runId, flags);
      exit(exitStatus.ok);
    });
}

const help = `
This only asks: a run ends when its producer finishes it. exec sends SIGTERM to its
command, ingest stops reading; both finish their run as CANCELLED. Runs that have
ended stay as they are.

Examples:
  $ runlog cancel RUN
  $ runlog cancel ROOT --descendants --reason "over budget"
`;

function cancel(runId: string, flags: CancelFlags): Promise<void> {
  const { namespace, descendants = false, reason = "" } = flags;
  return inNamespace(flags, async (transport) => {
    const client = createClient(RunService, transport);
    const request = { namespace, runId, includeDescendants: descendants, reason };
    const { runCount } = await callServer(flags, (options) => client.cancelRun(request, options));
    const ended = descendants
      ? "nothing to stop: the run and all its descendants have ended already\n"
      : "nothing to stop: the run has ended already\n";
    await stdout.write(
      runCount === 0 ? ended : `asked ${countText(runCount, "running run")} to stop\n`,
    );
    return true;
  });
}
