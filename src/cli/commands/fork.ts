/** `runlog fork`: a run that begins with another run's events. */
import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { Command } from "commander";
import { v7 as uuidv7 } from "uuid";
import { RunService } from "../../../gen/runlog/v1/run_pb.js";
import { SubscribeService } from "../../../gen/runlog/v1/subscribe_pb.js";
import { callServer } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { CommandError, exitStatus, exitStatusHelp } from "../failure.ts";
import {
  addConnectionFlags,
  addSpecFlags,
  parseRunSeq,
  parseSeq,
  type RunFlags,
  repeatFlags,
  specOf,
} from "../flags.ts";
import { inNamespace } from "../namespaces.ts";
import { notice, stdout } from "../output.ts";

interface ForkFlags extends RunFlags {
  readonly at?: bigint;
  readonly atSeq?: bigint;
}

/** Builds the command; `exit` takes the status. */
export function forkCommand(exit: (status: number) => void): Command {
  const command = new Command("fork");
  return addSpecFlags(
    addConnectionFlags(command)
      .addOption(
        command
          .createOption("--at <run_seq>", "the last event to inherit (default: the newest)")
          .argParser(parseRunSeq),
      )
      .addOption(
        command
          .createOption("--at-seq <seq>", "the last event to inherit, by the seq that tail prints")
          .argParser(parseSeq)
          .conflicts("at"),
      )
      .option("--run <id>", "id of the new run (default: a new UUIDv7)"),
  )
    .description("Create a run whose history begins with another run's events, without a copy.")
    .argument("<run-id>", "the run to fork")
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (source: string, flags: ForkFlags) => {
      await fork(source, flags);
      exit(exitStatus.ok);
    });
}

const help = `
Prints the new run's id. The run's own events begin at run_seq 1.

Examples:
  $ runlog fork RUN
  $ runlog fork RUN --at 12 --agent planner --name "second try"
  $ runlog fork RUN --at-seq 4711
  $ some-agent --json | runlog ingest --run "$(runlog fork RUN --no-parent)" --no-parent
`;

function fork(source: string, flags: ForkFlags): Promise<void> {
  return inNamespace(flags, async (transport) => {
    const client = createClient(RunService, transport);
    const runSeq =
      flags.atSeq === undefined
        ? (flags.at ?? (await lastRunSeq(client, source, flags)))
        : await runSeqAt(transport, source, flags.atSeq, flags);
    // Minted here, so that a call made again after a lost answer is the same fork.
    const runId = flags.run ?? uuidv7();
    const spec = specOf(flags, "");
    const request = { namespace: flags.namespace, sourceRunId: source, runSeq, runId, spec };
    await callServer(flags, (options) => client.forkRun(request, options));
    await stdout.write(`${runId}\n`);
    const again = repeatFlags(flags);
    notice(
      `run ${runId} begins with ${source} up to event ${runSeq}\n` +
        `  follow it: runlog tail --run ${runId} --inherited${again.connection}\n` +
        `  write to it: runlog ingest --run ${runId}${again.connection}${again.spec}`,
    );
    return true;
  });
}

/** The run's own number of the event that is at this place of the journal. */
async function runSeqAt(
  transport: Transport,
  source: string,
  seq: bigint,
  flags: ForkFlags,
): Promise<bigint> {
  const client = createClient(SubscribeService, transport);
  const filter = { scope: { case: "runIds" as const, value: { runIds: [source] } } };
  const request = {
    namespace: flags.namespace,
    filter,
    seq: seq + 1n,
    backward: true,
    pageSize: 1,
  };
  const { events } = await callServer(flags, (options) => client.readEvents(request, options));
  const [found] = events;
  if (found?.seq === seq && found.record.case === "event") return found.runSeq;
  throw new CommandError(
    `seq ${seq} is not an event of run ${JSON.stringify(source)}: \`runlog read --run ${source}\` lists its events`,
  );
}

async function lastRunSeq(
  client: Client<typeof RunService>,
  source: string,
  flags: ForkFlags,
): Promise<bigint> {
  const request = { namespace: flags.namespace, runId: source };
  const { run } = await callServer(flags, (options) => client.getRun(request, options));
  if (run === undefined)
    throw new CommandError("the server answered without a run: is it as new as this runlog?");
  return run.lastRunSeq;
}
