/**
 * Flags that several commands share, and how their values are read.
 *
 * Invariant: a value that is wrong is refused before anything is done, with
 * the flag's name and what would be right.
 */
import { type Command, InvalidArgumentError } from "commander";
import type { ConnectionFlags } from "./connection.ts";
import { readEnvironment } from "./env.ts";

/** Flags of the commands that record a run. */
export interface RunFlags extends ConnectionFlags {
  readonly run?: string;
  /** false: --no-parent. */
  readonly parent?: string | false;
  readonly agent?: string;
  readonly conversation?: string;
  readonly name?: string;
}

/** Reads a server's URL. */
function parseServer(value: string): string {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  if (url === undefined || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw new InvalidArgumentError("give a URL such as http://127.0.0.1:7400.");
  }
  return value;
}

/** Reads a duration in seconds into milliseconds. */
function parseSeconds(value: string): number {
  const seconds = Number(value);
  if (value.trim() === "" || !(seconds > 0 && seconds <= 86_400)) {
    throw new InvalidArgumentError("give seconds, above 0 and at most 86400.");
  }
  return seconds * 1000;
}

/** Reads a uint64. */
export function parseSeq(value: string): bigint {
  if (!/^\d{1,20}$/.test(value) || BigInt(value) >= 2n ** 64n) {
    throw new InvalidArgumentError("give a seq: 0, 1, 2, …");
  }
  return BigInt(value);
}

/** Reads a whole number from 0 on. */
export function parseCount(value: string): number {
  if (!/^\d{1,9}$/.test(value)) {
    throw new InvalidArgumentError("give a whole number.");
  }
  return Number(value);
}

/** Adds --server, --namespace and --connect-timeout. */
export function addConnectionFlags(command: Command): Command {
  const environment = readEnvironment();
  // The environment's URL goes through the same check as the flag's.
  const server = command.createOption("--server <url>", "the server's URL").argParser(parseServer);
  return command
    .addOption(server.default(environment.server))
    .option("--namespace <name>", "the namespace", environment.namespace)
    .addOption(
      command
        .createOption(
          "--connect-timeout <seconds>",
          "bound of the first connection; later ones are tried until they work",
        )
        .argParser(parseSeconds)
        .default(10_000, "10"),
    )
    .hook("preAction", (_, action) => {
      const { server: url } = action.opts<{ readonly server: string }>();
      try {
        parseServer(url);
      } catch {
        action.error(
          `error: RUNLOG_SERVER '${url}' is invalid. Give a URL such as http://127.0.0.1:7400.`,
        );
      }
    });
}

/** Adds the flags of ingest and exec. */
export function addRunFlags(command: Command): Command {
  const environment = readEnvironment();
  return addConnectionFlags(command)
    .option("--run <id>", "run id; an existing run goes on where it is (default: a new UUIDv7)")
    .option("--parent <id>", "the run that started this one", environment.runId)
    .option("--no-parent", "a root, even inside another run")
    .option("--agent <name>", "which agent runs")
    .option("--conversation <id>", "groups runs across trees")
    .option("--name <text>", "a name for people");
}
