/** `runlog whoami`: who one is to a server, and what one may do. */
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { Command } from "commander";
import {
  AuthService,
  type Grant,
  type WhoAmIResponse,
  WhoAmIResponseSchema,
} from "../../../gen/runlog/v1/auth_pb.js";
import { callServer, connectBy, type ServerFlags } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { exitStatus, exitStatusHelp } from "../failure.ts";
import { addServerFlags } from "../flags.ts";
import { stdout } from "../output.ts";
import { permissionName } from "../permissions.ts";
import { jsonLine } from "../print-records.ts";
import { printable } from "../text.ts";

interface WhoAmIFlags extends ServerFlags {
  readonly json?: true;
}

/** Builds the command; `exit` takes the status. */
export function whoAmICommand(exit: (status: number) => void): Command {
  return addServerFlags(new Command("whoami"))
    .description("Tell who you are to a server, what you may do, and until when.")
    .option("--json", "print the answer as protobuf-JSON")
    .addHelpText("after", environmentHelp + exitStatusHelp)
    .action(async (flags: WhoAmIFlags) => {
      await whoAmI(flags);
      exit(exitStatus.ok);
    });
}

async function whoAmI(flags: WhoAmIFlags): Promise<void> {
  const { transport, close } = connectBy(flags);
  try {
    const client = createClient(AuthService, transport);
    const answer = await callServer(flags, (options) => client.whoAmI({}, options));
    await stdout.write(
      flags.json
        ? jsonLine(WhoAmIResponseSchema, answer)
        : `${linesOf(answer).map(printable).join("\n")}\n`,
    );
  } finally {
    close();
  }
}

function linesOf(answer: WhoAmIResponse): string[] {
  const { identity, mintedFrom, grants, expireTime, readableNamespaces } = answer;
  const who = identity === "" ? "anybody (the server does not authenticate)" : identity;
  const from = mintedFrom === "" ? "" : `, minted from ${mintedFrom}`;
  const until = expireTime === undefined ? "never" : timestampDate(expireTime).toISOString();
  const more = answer.moreReadableNamespaces ? ["…"] : [];
  const names = [...readableNamespaces, ...more].join(", ");
  return [
    `identity   ${who}${from}`,
    `expires    ${until}`,
    ...grants.map((grant) => `may        ${grantText(grant)}`),
    ...(grants.length === 0 ? ["may        nothing"] : []),
    `namespaces ${names === "" ? "none that exists and that you may read" : names}`,
  ];
}

function grantText({ namespace, ancestor, permissions }: Grant): string {
  const where = namespace === "*" ? "every namespace" : namespace;
  const below =
    ancestor === undefined ? "" : `, run ${ancestor.runId} (seq ${ancestor.startSeq}) and below`;
  return `${permissions.map(permissionName).join(" ")} in ${where}${below}`;
}
