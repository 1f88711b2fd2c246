/**
 * The program: its commands, its help, and the one place where a thrown error
 * becomes a line on standard error and an exit status.
 */
import { Command, CommanderError } from "commander";
import manifest from "../../package.json" with { type: "json" };
import { cancelCommand } from "./commands/cancel.ts";
import { deleteCommand } from "./commands/delete.ts";
import { execCommand } from "./commands/exec.ts";
import { forkCommand } from "./commands/fork.ts";
import { ingestCommand } from "./commands/ingest.ts";
import { namespacesCommand } from "./commands/namespaces.ts";
import { readCommand } from "./commands/read.ts";
import { retentionCommand } from "./commands/retention.ts";
import { runsCommand } from "./commands/runs.ts";
import { serveCommand } from "./commands/serve.ts";
import { signalCommand } from "./commands/signal.ts";
import { tailCommand } from "./commands/tail.ts";
import { tokenCommand } from "./commands/token.ts";
import { whoAmICommand } from "./commands/whoami.ts";
import { CannotReachError } from "./connection.ts";
import { environmentHelp } from "./env.ts";
import { exitStatus, exitStatusHelp, explain, innermost, statusOf } from "./failure.ts";
import { notice, OutputClosedError, OutputFailedError, stderr, stdout } from "./output.ts";

/** In the order of the help. */
const commands = [
  serveCommand,
  ingestCommand,
  execCommand,
  tailCommand,
  readCommand,
  runsCommand,
  signalCommand,
  cancelCommand,
  forkCommand,
  namespacesCommand,
  retentionCommand,
  deleteCommand,
  tokenCommand,
  whoAmICommand,
];

/** Runs the command line and returns the status to exit with; never rejects. */
export async function runProgram(argv: readonly string[]): Promise<number> {
  const status = { code: exitStatus.ok as number };
  const exit = (code: number) => {
    status.code = code;
  };
  const program = new Command("runlog")
    .description("A durable, ordered event log for agent runs.")
    .version(manifest.version, "-V, --version", "print the version")
    .helpOption("-h, --help", "print help")
    .enablePositionalOptions()
    .showHelpAfterError("(--help explains the usage)")
    .addHelpText("after", exampleHelp + environmentHelp + exitStatusHelp);
  for (const command of commands) {
    program.addCommand(command(exit).copyInheritedSettings(program));
  }
  for (const command of [program, ...program.commands]) {
    command.exitOverride();
  }
  try {
    await program.parseAsync([...argv]);
  } catch (thrown) {
    if (thrown instanceof CommanderError) {
      // Commander has printed what there was to say: help, version, or the mistake.
      status.code = thrown.exitCode === 0 ? exitStatus.ok : exitStatus.usage;
    } else if (!(thrown instanceof OutputClosedError)) {
      const cause = innermost(thrown);
      const advice = cause instanceof CannotReachError ? await cause.advice() : undefined;
      notice(explain(thrown) + (advice === undefined ? "" : `; ${advice}`));
      status.code = statusOf(thrown);
    }
  }
  await stdout.flush();
  const { reason } = stdout.closed;
  if (reason instanceof OutputFailedError && status.code === exitStatus.ok) {
    notice(reason.message);
    status.code = exitStatus.failed;
  }
  await stderr.flush();
  return status.code;
}

const exampleHelp = `
Examples:
  $ runlog serve                                    start a server on 127.0.0.1:7400
  $ my-agent --json | runlog ingest --agent my-agent
  $ runlog exec --agent tests -- npm test           a command as a run
  $ runlog tail --all                               watch everything
  $ runlog tail --ancestor RUN --until finished     watch one family to its end
  $ runlog read --all --backward --limit 20         what happened last
  $ runlog runs --tree                              who started whom, and how it went
`;
