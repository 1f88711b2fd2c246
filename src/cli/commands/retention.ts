/** `runlog retention`: how long ended runs are kept. */
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import { createClient, type Transport } from "@connectrpc/connect";
import { Command, InvalidArgumentError } from "commander";
import { AdminService } from "../../../gen/runlog/v1/admin_pb.js";
import { confirm } from "../confirm.ts";
import { type ConnectionFlags, callServer, connectBy } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { CommandError, exitStatus, exitStatusHelp } from "../failure.ts";
import { addConfirmFlag, addConnectionFlags, type ConfirmFlags } from "../flags.ts";
import { findNamespace } from "../namespaces.ts";
import { stdout } from "../output.ts";
import { exactDurationText, parseDurationMs } from "../quantities.ts";
import { retentionText } from "../render-namespaces.ts";

interface RetentionFlags extends ConnectionFlags, ConfirmFlags {}

/** How long trees are kept once all their runs have ended. */
type Retention =
  | { readonly t: "forever" }
  /** Milliseconds, above 0. */
  | { readonly t: "for"; readonly ms: number };

/** Builds the command; `exit` takes the status. */
export function retentionCommand(exit: (status: number) => void): Command {
  return addConfirmFlag(addConnectionFlags(new Command("retention")))
    .description("Show or set how long a namespace keeps trees whose runs have all ended.")
    .argument("[duration]", "7d, 12h, 30m, 90s, or forever", parseRetention)
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (retention: Retention | undefined, flags: RetentionFlags) => {
      const connection = connectBy(flags);
      try {
        if (retention === undefined) await show(connection.transport, flags);
        else await set(connection.transport, flags, retention);
      } finally {
        connection.close();
      }
      exit(exitStatus.ok);
    });
}

const help = `
Without a duration, prints the present one. A shorter duration than before deletes
trees that ended earlier, with all their records, so it asks first; without a
terminal, use --yes.

Examples:
  $ runlog retention
  $ runlog retention 7d --namespace staging
  $ runlog retention forever
`;

function parseRetention(value: string): Retention {
  if (value === "forever") return { t: "forever" };
  const ms = parseDurationMs(value);
  if (ms === undefined || ms === 0) {
    throw new InvalidArgumentError("use a duration such as 7d, 12h, 30m or 90s, or forever.");
  }
  return { t: "for", ms };
}

async function show(transport: Transport, flags: RetentionFlags): Promise<void> {
  const namespace = await findNamespace(transport, flags, flags.namespace);
  if (namespace === undefined) {
    throw new CommandError(
      `there is no namespace ${JSON.stringify(flags.namespace)}; \`runlog namespaces\` lists those that exist`,
    );
  }
  await stdout.write(`${retentionText(namespace.retention)}\n`);
}

async function set(
  transport: Transport,
  flags: RetentionFlags,
  retention: Retention,
): Promise<void> {
  const name = JSON.stringify(flags.namespace);
  if (retention.t === "for") await confirmUnlessLonger(transport, flags, retention.ms);
  const client = createClient(AdminService, transport);
  const request = {
    namespace: flags.namespace,
    ...(retention.t === "for" ? { retention: durationFromMs(retention.ms) } : {}),
  };
  // What the server says, not what it was asked for.
  const { namespace } = await callServer(flags, (options) => client.setRetention(request, options));
  const text = retentionText(namespace?.retention);
  await stdout.write(
    text === "forever"
      ? `namespace ${name}: keeps trees forever\n`
      : `namespace ${name}: deletes trees ${text} after their last run has ended\n`,
  );
}

/** Longer than before deletes nothing, so nobody needs to be asked. */
async function confirmUnlessLonger(
  transport: Transport,
  flags: RetentionFlags,
  ms: number,
): Promise<void> {
  if (flags.yes) return;
  const present = await findNamespace(transport, flags, flags.namespace);
  const before = present?.retention;
  if (before !== undefined && ms >= durationMs(before)) return;
  await confirm({
    yes: false,
    what: "deleting trees that a shorter retention does not keep",
    details: async () =>
      `Namespace ${JSON.stringify(flags.namespace)} keeps its trees ${before === undefined ? "forever" : `for ${retentionText(before)}`}. ` +
      `From now on it deletes those whose last run ended more than ${exactDurationText(ms)} ago.`,
  });
}
