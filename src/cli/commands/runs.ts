/** `runlog runs`: the runs, or the trees that they form. */
import { createClient } from "@connectrpc/connect";
import { Command, InvalidArgumentError } from "commander";
import { type Run, RunSchema, RunService, RunState } from "../../../gen/runlog/v1/run_pb.js";
import { terminalColors } from "../colors.ts";
import { type ConnectionFlags, callServer } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { exitStatus, exitStatusHelp } from "../failure.ts";
import { addConnectionFlags } from "../flags.ts";
import { inNamespace } from "../namespaces.ts";
import { stdout } from "../output.ts";
import { jsonLine } from "../print-records.ts";
import { renderRun, renderTrees, stateName } from "../render-runs.ts";

/** Runs per page: the contract's maximum, for the fewest round trips. */
const pageSize = 1_000;

interface RunsFlags extends ConnectionFlags {
  readonly tree?: true;
  readonly json?: true;
  readonly ancestor?: string;
  readonly conversation?: string;
  readonly state?: readonly RunState[];
}

/** Builds the command; `exit` takes the status. */
export function runsCommand(exit: (status: number) => void): Command {
  return addConnectionFlags(new Command("runs"))
    .description("List runs, newest first, or draw their trees.")
    .option("--tree", "draw trees, oldest first")
    .option("--json", "one protobuf-JSON Run a line")
    .option("--ancestor <id>", "only this run and its descendants")
    .option("--conversation <id>", "only runs of this conversation")
    .option(
      "--state <state>",
      `only runs in this state, repeatable: ${states.join(", ")}`,
      parseState,
    )
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (flags: RunsFlags) => {
      await listRuns(flags);
      exit(exitStatus.ok);
    });
}

const selectable = [
  RunState.RUNNING,
  RunState.WAITING,
  RunState.SUCCEEDED,
  RunState.FAILED,
  RunState.CANCELLED,
  RunState.LOST,
] as const;
const states = selectable.map(stateName);

const help = `
Examples:
  $ runlog runs --state failed --state lost
  $ runlog runs --tree --ancestor RUN
  $ runlog runs --json | jq -r .runId
`;

function parseState(value: string, before: readonly RunState[] | undefined): readonly RunState[] {
  const state = selectable.find((candidate) => stateName(candidate) === value.toLowerCase());
  if (state === undefined) {
    throw new InvalidArgumentError(`use one of ${states.join(", ")}.`);
  }
  return [...(before ?? []), state];
}

function listRuns(flags: RunsFlags): Promise<void> {
  const colors = terminalColors();
  const options = { colors, nowMs: Date.now() };
  return inNamespace(flags, async (transport) => {
    const client = createClient(RunService, transport);
    const all: Run[] = [];
    let count = 0;
    for await (const page of pages(client, flags)) {
      count += page.length;
      if (flags.json) {
        await stdout.write(page.map((run) => jsonLine(RunSchema, run)).join(""));
      } else if (flags.tree) {
        all.push(...page);
      } else {
        await stdout.write(page.map((run) => `${renderRun(run, options)}\n`).join(""));
      }
    }
    for (const line of renderTrees(all, options)) await stdout.write(`${line}\n`);
    return count > 0;
  });
}

async function* pages(
  client: ReturnType<typeof createClient<typeof RunService>>,
  flags: RunsFlags,
): AsyncGenerator<readonly Run[]> {
  const { namespace, ancestor, conversation, state = [] } = flags;
  let pageToken = "";
  do {
    const request = {
      namespace,
      ancestorRunId: ancestor ?? "",
      conversationId: conversation ?? "",
      states: [...state],
      pageSize,
      pageToken,
    };
    const page = await callServer(flags, (options) => client.listRuns(request, options));
    yield page.runs;
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  // ListRuns gives descendants only; the list is newest first, so it comes last.
  if (ancestor !== undefined) {
    const call = { namespace, runId: ancestor };
    const { run } = await callServer(flags, (options) => client.getRun(call, options));
    if (run !== undefined && (state.length === 0 || state.includes(run.state))) {
      yield [run];
    }
  }
}
