/** `runlog namespaces`: what a server holds. */
import { toJsonString } from "@bufbuild/protobuf";
import { Command } from "commander";
import { type Namespace, NamespaceSchema } from "../../../gen/runlog/v1/admin_pb.js";
import { terminalColors } from "../colors.ts";
import { connectBy, type ServerFlags } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { exitStatus, exitStatusHelp } from "../failure.ts";
import { addServerFlags } from "../flags.ts";
import { namespacePages } from "../namespaces.ts";
import { stdout } from "../output.ts";
import { renderNamespaces } from "../render-namespaces.ts";

interface NamespacesFlags extends ServerFlags {
  readonly json?: true;
}

/** Builds the command; `exit` takes the status. */
export function namespacesCommand(exit: (status: number) => void): Command {
  return addServerFlags(new Command("namespaces"))
    .description("List namespaces with their runs, seqs, bytes of events and retention.")
    .option("--json", "one protobuf-JSON Namespace a line")
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (flags: NamespacesFlags) => {
      await listNamespaces(flags);
      exit(exitStatus.ok);
    });
}

const help = `
Examples:
  $ runlog namespaces
  $ runlog namespaces --json | jq -r 'select(.runningCount == null) | .name'
`;

async function listNamespaces(flags: NamespacesFlags): Promise<void> {
  const connection = connectBy(flags);
  try {
    const all: Namespace[] = [];
    for await (const page of namespacePages(connection.transport, flags)) {
      if (flags.json) {
        const lines = page.map((namespace) => `${toJsonString(NamespaceSchema, namespace)}\n`);
        await stdout.write(lines.join(""));
      } else {
        all.push(...page);
      }
    }
    if (!flags.json) {
      await stdout.write(`${renderNamespaces(all, terminalColors()).join("\n")}\n`);
    }
  } finally {
    connection.close();
  }
}
