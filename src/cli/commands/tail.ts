/** `runlog tail`: records as they come, from any point on. */
import { constants } from "node:os";
import { Command } from "commander";
import { StopPolicy } from "../../../gen/runlog/v1/subscribe_pb.js";
import { type FollowRequest, type FollowState, follow } from "../../client/index.ts";
import { connectTo } from "../../client/node/index.ts";
import type { ConnectionFlags } from "../connection.ts";
import { FirstConnection, Outage } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { exitStatus, exitStatusHelp } from "../failure.ts";
import { addConnectionFlags, parseSeq } from "../flags.ts";
import { notice, OutputClosedError, stdout } from "../output.ts";
import { recordPrinter } from "../print-records.ts";
import { addScopeFlags, checkScope, filterOf, type ScopeFlags } from "../scope-flags.ts";

interface TailFlags extends ConnectionFlags, ScopeFlags {
  readonly after?: bigint;
  readonly now?: true;
  readonly until?: "finished" | "caught-up";
  readonly json?: true;
}

/** Builds the command; `exit` takes the status. */
export function tailCommand(exit: (status: number) => void): Command {
  const command = new Command("tail");
  return addScopeFlags(
    addConnectionFlags(command).description(
      "Print records in order: history first, then what comes.",
    ),
  )
    .addOption(
      command
        .createOption("--after <seq>", "only records with a greater seq (default: all)")
        .argParser(parseSeq)
        .conflicts("now"),
    )
    .option("--now", "only records from now on")
    .addOption(
      command
        .createOption(
          "--until <when>",
          "end by itself: once the runs have ended, or once caught up",
        )
        .choices(["finished", "caught-up"]),
    )
    .option("--json", "one protobuf-JSON SequencedEvent a line")
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (flags: TailFlags, self: Command) => {
      checkFlags(flags, self);
      exit(await tail(flags));
    });
}

const help = `
One of --ancestor, --run and --all says whose records. Each line begins with the
record's seq: give the last one that you have seen to --after, and nothing is
missing and nothing comes twice. When the server restarts, tail goes on by itself.

Examples:
  $ runlog tail --all
  $ runlog tail --ancestor RUN --until finished
  $ runlog tail --ancestor RUN --type message 'tool_call.*'
  $ runlog tail --run RUN1 RUN2 --after 1200
  $ runlog tail --run FORK --inherited
  $ runlog tail --all --until caught-up --json | jq .event.type
`;

function checkFlags(flags: TailFlags, command: Command): void {
  checkScope(flags, command);
  if (flags.all && flags.until === "finished") {
    command.error("error: --until finished goes with --ancestor or --run; --all never ends");
  }
}

async function tail(flags: TailFlags): Promise<number> {
  const connection = connectTo(flags.server);
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
  let seen: bigint | undefined;
  try {
    for await (const item of follow(connection.transport, requestOf(flags), { signal, onState })) {
      if (item.t === "records") {
        await print(item.records);
      }
      seen = item.cursor;
    }
    return exitStatus.ok;
  } catch (error) {
    if (stdout.closed.aborted) {
      throw new OutputClosedError();
    }
    if (!interrupted.signal.aborted) {
      throw error;
    }
    if (seen !== undefined) {
      notice(`stopped; go on with --after ${seen}`);
    }
    const received = interrupted.signal.reason as NodeJS.Signals;
    return exitStatus.signalBase + constants.signals[received];
  } finally {
    first.settled();
    connection.close();
  }
}

function requestOf(flags: TailFlags): FollowRequest {
  return {
    namespace: flags.namespace,
    filter: filterOf(flags),
    after: flags.now ? "now" : (flags.after ?? 0n),
    stop: stopPolicy(flags.until),
  };
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
