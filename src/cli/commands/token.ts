/** `runlog token`: makes a token to hand on. */
import { durationFromMs, timestampDate } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { Command } from "commander";
import { AuthService, MintTokenResponseSchema } from "../../../gen/runlog/v1/auth_pb.js";
import { type ConnectionFlags, callServer, connectBy } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { exitStatus, exitStatusHelp } from "../failure.ts";
import { addConnectionFlags, parseDuration } from "../flags.ts";
import { notice, stdout } from "../output.ts";
import { type PermissionName, permissionsByName } from "../permissions.ts";
import { jsonLine } from "../print-records.ts";

interface TokenFlags extends ConnectionFlags {
  readonly permission: readonly PermissionName[];
  readonly ancestor?: string;
  /** Milliseconds. */
  readonly expires?: number;
  readonly name?: string;
  readonly json?: true;
}

/** Builds the command; `exit` takes the status. */
export function tokenCommand(exit: (status: number) => void): Command {
  const command = addConnectionFlags(new Command("token"));
  return command
    .description("Make a token to hand on, with some of your own rights. Prints the token alone.")
    .addOption(
      command
        .createOption("--permission <permission...>", "what it permits")
        .choices(Object.keys(permissionsByName))
        .makeOptionMandatory(),
    )
    .option("--ancestor <run>", "only for this run and its descendants, including later ones")
    .addOption(
      command
        .createOption(
          "--expires <duration>",
          "time until it expires; at most, and by default, what the server allows, mostly an hour",
        )
        .argParser(parseDuration),
    )
    .option("--name <name>", "names its holder in logs and signals (default: a random name)")
    .option("--json", "print the answer as protobuf-JSON, with its expiry and rights")
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (flags: TokenFlags) => {
      await token(flags);
      exit(exitStatus.ok);
    });
}

const help = `
The token gives nothing that you have not, and expires no later than your own. --ancestor
means the run that has the id now, not one that gets it later. --namespace '*' means every
namespace. The server needs a key to sign with, see docs/security.md.

Examples:
  $ runlog token --permission ingest --ancestor RUN              for a sub-agent
  $ runlog token --permission read signal --ancestor RUN --expires 10m --name browser
  $ runlog token --permission read >reader && runlog tail --all --token-file reader
  $ runlog whoami                                                what your own token gives
`;

async function token(flags: TokenFlags): Promise<void> {
  const { namespace, permission, ancestor, expires, name = "" } = flags;
  const { transport, close } = connectBy(flags);
  try {
    const client = createClient(AuthService, transport);
    const grant = {
      namespace,
      permissions: permission.map((one) => permissionsByName[one]),
      ...(ancestor !== undefined && { ancestor: { runId: ancestor } }),
    };
    const request = {
      grants: [grant],
      name,
      ...(expires !== undefined && { lifetime: durationFromMs(expires) }),
    };
    const answer = await callServer(flags, (options) => client.mintToken(request, options));
    const { identity, expireTime } = answer;
    if (flags.json) {
      await stdout.write(jsonLine(MintTokenResponseSchema, answer));
      return;
    }
    await stdout.write(`${answer.token}\n`);
    if (expireTime === undefined) return;
    notice(`token of ${identity}, expires ${timestampDate(expireTime).toISOString()}`);
  } finally {
    close();
  }
}
