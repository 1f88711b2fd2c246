/** `runlog tail`: records as they come, from any point on. */
import { constants } from "node:os";
import { Command, InvalidArgumentError } from "commander";
import { RunState } from "../../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../../gen/runlog/v1/subscribe_pb.js";
import { type FollowRequest, type FollowState, follow } from "../../client/index.ts";
import { maxLastCount } from "../../limits.ts";
import type { ConnectionFlags } from "../connection.ts";
import { connectBy, FirstConnection, Outage } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { CommandError, exitStatus, exitStatusHelp } from "../failure.ts";
import { addConnectionFlags, parseCount, parseSeq, parseTime } from "../flags.ts";
import { namespaceExists, noSuchNamespace } from "../namespaces.ts";
import { notice, stdout } from "../output.ts";
import { recordPrinter } from "../print-records.ts";
import { addScopeFlags, checkScope, filterOf, type ScopeFlags } from "../scope-flags.ts";
import { watchReader } from "../watch-reader.ts";

interface TailFlags extends ConnectionFlags, ScopeFlags {
  readonly after?: bigint;
  readonly now?: true;
  readonly last?: number;
  readonly since?: Date;
  readonly until?: "finished" | "caught-up";
  readonly json?: true;
  readonly wait?: true;
  readonly exitStatus?: true;
}

/** Builds the command; `exit` takes the status. */
export function tailCommand(exit: (status: number) => void): Command {
  const command = new Command("tail");
  return addScopeFlags(
    addConnectionFlags(command).description(
      "Print records in order: history first, then new ones as they come.",
    ),
  )
    .addOption(
      command
        .createOption("--after <seq>", "only records with a greater seq (default: all)")
        .argParser(parseSeq)
        .conflicts(["now", "last", "since"]),
    )
    .addOption(
      command.createOption("--now", "only records from now on").conflicts(["last", "since"]),
    )
    .addOption(
      command
        .createOption("--last <n>", "the newest n records that match, up to 1000, then new ones")
        .argParser(parseLast)
        .conflicts("since"),
    )
    .addOption(
      command
        .createOption("--since <time>", "only records of the last 10m, 2h, …, or since a time")
        .argParser(parseTime),
    )
    .addOption(
      command
        .createOption("--until <when>", "end when the runs have ended, or when caught up")
        .choices(["finished", "caught-up"]),
    )
    .option("--wait", "wait for runs, and with --until for a namespace, that do not exist yet")
    .option(
      "--exit-status",
      `with --until finished: ${exitStatus.unsuccessful} unless every run that ended has SUCCEEDED`,
    )
    .option("--json", "one protobuf-JSON SequencedEvent a line")
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (flags: TailFlags, self: Command) => {
      checkFlags(flags, self);
      exit(await tail(flags));
    });
}

const help = `
Use one of --ancestor, --run and --all. A line has the record's seq and time, its run, and what
it says. A run is shown by the names of its tree: what --name or --agent gave, the command of
exec, or else its id. Its line "started" has the id, and --json always has it.

Pass the last seq that you have seen to --after: nothing is missing and nothing comes twice.
When the server restarts, tail resumes by itself. --last finds fewer if few of the newest
records match. --since takes the time from this machine's clock, records from the server's.

Examples:
  $ runlog tail --all
  $ runlog tail --all --last 20
  $ runlog tail --all --since 10m --kind lifecycle
  $ runlog tail --ancestor RUN --until finished
  $ runlog tail --ancestor RUN --type message 'tool_call.*'
  $ runlog tail --run RUN1 RUN2 --after 1200
  $ runlog tail --run FORK --inherited
  $ runlog tail --run nightly --wait --until finished --exit-status && echo succeeded
  $ runlog tail --all --until caught-up --json | jq .event.type
`;

function checkFlags(flags: TailFlags, command: Command): void {
  checkScope(flags, command);
  if (flags.all && flags.until === "finished") {
    command.error("error: --until finished needs --ancestor or --run: --all never ends");
  }
  if (flags.exitStatus && flags.until !== "finished") {
    command.error("error: --exit-status needs --until finished");
  }
  if (flags.exitStatus && flags.kind?.includes("lifecycle") === false) {
    command.error(
      "error: --exit-status needs --kind lifecycle: the others do not tell how runs end",
    );
  }
  if (flags.wait && flags.inherited) {
    command.error(
      "error: --wait cannot be combined with --inherited: a fork inherits older events",
    );
  }
}

async function tail(flags: TailFlags): Promise<number> {
  const connection = connectBy(flags);
  const outage = new Outage(flags.server);
  const first = new FirstConnection(flags, outage);
  const interrupted = new AbortController();
  const onSignal = (received: NodeJS.Signals) => interrupted.abort(received);
  process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
  const signal = AbortSignal.any([first.signal, interrupted.signal, stdout.closed]);
  const onState = (state: FollowState) => {
    if (state.t === "following") {
      first.settled();
      outage.connected();
    } else if (state.t === "waiting") {
      outage.lost(state.error);
    }
  };
  const print = recordPrinter(flags);
  const watch = watchReader(stdout);
  // The last end of each run counts: a run that was LOST may have gone on.
  const ends = new Map<string, RunState>();
  let seen: bigint | undefined;
  try {
    if (!flags.wait && !(await namespaceExists(connection.transport, flags))) {
      // A reader that waits for the end would wait in vain; one that follows may be early.
      if (flags.until !== undefined) throw new CommandError(noSuchNamespace(flags));
      notice(`${noSuchNamespace(flags)}; waiting`);
    }
    for await (const item of follow(connection.transport, requestOf(flags), { signal, onState })) {
      if (item.t === "records") {
        await print(item.records);
        for (const { runId, record } of item.records) {
          if (record.case === "runFinished" && flags.exitStatus) {
            ends.set(runId, record.value.result?.state ?? RunState.UNSPECIFIED);
          }
        }
      }
      seen = item.cursor;
    }
    const succeeded = [...ends.values()].every((state) => state === RunState.SUCCEEDED);
    return succeeded ? exitStatus.ok : exitStatus.unsuccessful;
  } catch (error) {
    stdout.closed.throwIfAborted();
    if (!interrupted.signal.aborted) {
      throw error;
    }
    if (seen !== undefined) {
      notice(`stopped; resume with --after ${seen}`);
    }
    const received = interrupted.signal.reason as NodeJS.Signals;
    return exitStatus.signalBase + constants.signals[received];
  } finally {
    watch.stop();
    first.settled();
    connection.close();
  }
}

function requestOf(flags: TailFlags): FollowRequest {
  return {
    namespace: flags.namespace,
    filter: filterOf(flags),
    after: startOf(flags),
    stop: stopPolicy(flags.until),
    allowMissing: flags.wait ?? false,
  };
}

function startOf({ after, now, last, since }: TailFlags): NonNullable<FollowRequest["after"]> {
  if (now) return "now";
  if (last !== undefined) return { lastCount: last };
  return since === undefined ? (after ?? 0n) : { fromTime: since };
}

/** Reads how many of the newest records are wanted. */
function parseLast(value: string): number {
  const count = parseCount(value);
  if (count > maxLastCount) throw new InvalidArgumentError(`use at most ${maxLastCount}.`);
  return count;
}

function stopPolicy(until: TailFlags["until"]): StopPolicy {
  switch (until) {
    case "finished":
      return StopPolicy.FINISHED;
    case "caught-up":
      return StopPolicy.CAUGHT_UP;
    default:
      return StopPolicy.UNSPECIFIED;
  }
}
