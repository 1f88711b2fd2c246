/** `runlog read`: one page of records, oldest or newest first. */
import { createClient } from "@connectrpc/connect";
import { Command, InvalidArgumentError } from "commander";
import { SubscribeService } from "../../../gen/runlog/v1/subscribe_pb.js";
import { type ConnectionFlags, callServer } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { exitStatus, exitStatusHelp } from "../failure.ts";
import { addConnectionFlags, parseCount, parseSeq } from "../flags.ts";
import { inNamespace } from "../namespaces.ts";
import { notice } from "../output.ts";
import { recordPrinter } from "../print-records.ts";
import { addScopeFlags, checkScope, filterOf, type ScopeFlags } from "../scope-flags.ts";

/** Records per call: the contract's maximum. */
const maxPageSize = 1_000;
/** Records where --limit does not say. */
const defaultLimit = 100;

interface ReadFlags extends ConnectionFlags, ScopeFlags {
  readonly after?: bigint;
  readonly before?: bigint;
  readonly backward?: true;
  readonly limit: number;
  readonly json?: true;
}

/** Builds the command; `exit` takes the status. */
export function readCommand(exit: (status: number) => void): Command {
  const command = new Command("read");
  return addScopeFlags(addConnectionFlags(command).description("Print one page of records."))
    .addOption(
      command
        .createOption("--after <seq>", "oldest first: only records with a greater seq")
        .argParser(parseSeq)
        .conflicts(["before", "backward"]),
    )
    .addOption(
      command
        .createOption("--before <seq>", "newest first: only records with a smaller seq")
        .argParser(parseBefore),
    )
    .option("--backward", "newest first, from the end or from --before")
    .addOption(
      command
        .createOption("--limit <n>", "at most n records")
        .argParser(parseLimit)
        .default(defaultLimit),
    )
    .option("--json", "one protobuf-JSON SequencedEvent a line")
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (flags: ReadFlags, self: Command) => {
      checkScope(flags, self);
      await read(flags);
      exit(exitStatus.ok);
    });
}

const help = `
Use one of --ancestor, --run and --all. If there are more, a
last line on a terminal shows the command for the next page. Use runlog tail to follow.

Examples:
  $ runlog read --all --backward --limit 20
  $ runlog read --ancestor RUN --before 1200
  $ runlog read --run RUN --after 1200 --json | jq .event.type
`;

function parseBefore(value: string): bigint {
  const seq = parseSeq(value);
  // To the server 0 is the end.
  if (seq === 0n) throw new InvalidArgumentError("use a seq: 1, 2, 3, …");
  return seq;
}

function parseLimit(value: string): number {
  const limit = parseCount(value);
  if (limit === 0) throw new InvalidArgumentError("use a whole number, 1 or more.");
  return limit;
}

function read(flags: ReadFlags): Promise<void> {
  const { namespace, before, after = 0n, limit } = flags;
  const backward = flags.backward === true || before !== undefined;
  const filter = filterOf(flags);
  const print = recordPrinter(flags);
  return inNamespace(flags, async (transport) => {
    const client = createClient(SubscribeService, transport);
    let seq = backward ? (before ?? 0n) : after;
    let left = limit;
    // A page may hold less than was asked for, even nothing, and not be the last.
    while (left > 0) {
      const request = { namespace, filter, seq, backward, pageSize: Math.min(left, maxPageSize) };
      const page = await callServer(flags, (options) => client.readEvents(request, options));
      await print(page.events);
      left -= page.events.length;
      if (page.end) return left < limit;
      seq = page.nextSeq;
    }
    if (process.stderr.isTTY) {
      notice(`more: runlog read … ${backward ? "--before" : "--after"} ${seq}`);
    }
    return true;
  });
}
