/**
 * Flags that several commands share, and how their values are read.
 *
 * Invariant: a value that is wrong is refused before anything is done, with
 * the flag's name and what would be right.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Command, InvalidArgumentError } from "commander";
import type { RunSpecSchema } from "../../gen/runlog/v1/run_pb.js";
import { longestTimerMs } from "../timers.ts";
import type { ConnectionFlags } from "./connection.ts";
import { readEnvironment } from "./env.ts";
import { CommandError, exitStatus } from "./failure.ts";
import { parseBytes, parseDurationMs } from "./quantities.ts";

/** Flags of the commands that may delete something. */
export interface ConfirmFlags {
  readonly yes?: true;
}

/** Flags that say what a new run is. */
export interface SpecFlags {
  /** false: --no-parent. */
  readonly parent?: string | false;
  readonly agent?: string;
  readonly conversation?: string;
  readonly name?: string;
}

/** Flags of the commands that record a run. */
export interface RunFlags extends ConnectionFlags, SpecFlags {
  readonly run?: string;
}

/** Flags of the commands that record lines. */
export interface RecordFlags extends RunFlags {
  /** Bytes that are kept on disk while the server is away. */
  readonly spool: number;
}

/** Reads a server's URL, or those of several nodes. */
function parseServer(value: string): string {
  for (const one of value.split(",").map((part) => part.trim())) {
    const url = URL.canParse(one) ? new URL(one) : undefined;
    if (one === "") throw new InvalidArgumentError("remove the empty URL from the list.");
    if (url === undefined || (url.protocol !== "http:" && url.protocol !== "https:")) {
      const guess = /^[^\s:/]+(?::\d+)?$/.test(one) ? one : "127.0.0.1:7400";
      throw new InvalidArgumentError(`use a URL such as http://${guess}.`);
    }
    if (url.username !== "" || url.password !== "") {
      // Not as an invalid argument: that would print the password.
      throw new CommandError(
        "remove user and password, which others can read in a URL: use RUNLOG_TOKEN, --token-file or --header",
        exitStatus.usage,
      );
    }
    if (url.search !== "" || url.hash !== "") {
      throw new InvalidArgumentError("use the server's URL alone, without ? and #.");
    }
  }
  return value;
}

/** Reads a header and adds it to those before. */
function parseHeader(
  value: string,
  before: Readonly<Record<string, string>> | undefined,
): Readonly<Record<string, string>> {
  const [, name = "", text = ""] =
    /^([!#$%&'*+.^_`|~\w-]+):[ \t]*([\t\x20-\x7e]*)$/.exec(value) ?? [];
  if (name === "") throw new InvalidArgumentError('use "name: value", in ASCII.');
  return { ...before, [name.toLowerCase()]: text.trim() };
}

/** Reads a duration in seconds into milliseconds. */
function parseSeconds(value: string): number {
  const seconds = Number(value);
  if (value.trim() === "" || !(seconds > 0 && seconds <= 86_400)) {
    throw new InvalidArgumentError("use seconds, above 0 and at most 86400.");
  }
  return seconds * 1000;
}

/** Reads a place in the journal. */
export function parseSeq(value: string): bigint {
  return parseUint64(value, "a seq");
}

/** Reads a place in a run. */
export function parseRunSeq(value: string): bigint {
  return parseUint64(value, "a run_seq");
}

function parseUint64(value: string, what: string): bigint {
  if (!/^\d{1,20}$/.test(value) || BigInt(value) >= 2n ** 64n) {
    throw new InvalidArgumentError(`use ${what}: 0, 1, 2, …`);
  }
  return BigInt(value);
}

/** Reads a whole number from 0 on. */
export function parseCount(value: string): number {
  if (!/^\d{1,9}$/.test(value)) {
    throw new InvalidArgumentError("use a whole number.");
  }
  return Number(value);
}

/** Adds --server, --connect-timeout and the credentials. */
export function addServerFlags(command: Command): Command {
  const { token, tokenFile, ca, cert, key } = readEnvironment();
  // The environment's URL goes through the same check as the flag's.
  const server = command
    .createOption("--server <url>", "URL of the server, or of several nodes, separated by commas")
    .argParser(parseServer);
  return command
    .addOption(server.default(readEnvironment().server))
    .addOption(
      command
        .createOption(
          "--connect-timeout <seconds>",
          "limit for the first connection; later ones retry for ever",
        )
        .argParser(parseSeconds)
        .default(10_000, "10"),
    )
    .addOption(
      command
        .createOption("--token <token>", "bearer token to send with every call")
        // --help must not print it.
        .default(token, "RUNLOG_TOKEN"),
    )
    .option("--token-file <file>", "the same in a file, read again when it changes", tokenFile)
    .option("--ca <file>", "authorities of servers, in PEM, for https:// (default: Node's)", ca)
    .option("--cert <file>", "certificate of this client, in PEM; needs --key", cert)
    .option("--key <file>", "key of the certificate, in PEM", key)
    .addOption(
      command
        .createOption("--header <name: value>", "header to send with every call, repeatable")
        .argParser(parseHeader),
    )
    .hook("preAction", (_, action) => {
      const { server: url } = action.opts<{ readonly server: string }>();
      try {
        parseServer(url);
      } catch (error) {
        if (!(error instanceof InvalidArgumentError)) throw error;
        action.error(`error: RUNLOG_SERVER '${url}' is invalid: ${error.message}`);
      }
      chooseToken(action);
      refuseIdleTls(action, url);
    });
}

/** A flag wins over the environment; two flags, or two variables, leave open which one counts. */
function chooseToken(action: Command): void {
  const names = ["token", "tokenFile"] as const;
  if (names.some((name) => action.getOptionValue(name) === undefined)) return;
  const flags = names.filter((name) => action.getOptionValueSource(name) === "cli");
  const [flag] = flags;
  if (flag === undefined || flags.length > 1) {
    const both =
      flag === undefined ? "RUNLOG_TOKEN and RUNLOG_TOKEN_FILE" : "--token and --token-file";
    action.error(`error: ${both} contradict each other: leave one out`);
  }
  action.setOptionValue(flag === "token" ? "tokenFile" : "token", undefined);
}

/** A flag that names a certificate asks for TLS; a variable may be meant for other servers. */
function refuseIdleTls(action: Command, url: string): void {
  const flag = ["ca", "cert", "key"].find((name) => action.getOptionValueSource(name) === "cli");
  const plain = url.split(",").find((one) => one.trim().startsWith("http:"));
  if (flag === undefined || plain === undefined) return;
  action.error(`error: --${flag} is for https://, and ${plain.trim()} is plaintext`);
}

/** Adds --server, --connect-timeout and --namespace. */
export function addConnectionFlags(command: Command): Command {
  const { namespace } = readEnvironment();
  return addServerFlags(command).option("--namespace <name>", "the namespace", namespace);
}

/** Adds the flags that say what a new run is. */
export function addSpecFlags(command: Command): Command {
  return command
    .option("--parent <id>", "the run that started this one", readEnvironment().runId)
    .option("--no-parent", "start a root, even inside another run")
    .option("--agent <name>", "the agent's name")
    .option("--conversation <id>", "groups runs across trees")
    .option("--name <text>", "a name for people");
}

/** Bytes of the spool unless --spool says otherwise. */
const defaultSpool = "1GiB";

/** Adds the flags of ingest and exec. */
export function addRecordFlags(command: Command): Command {
  return addSpecFlags(
    addConnectionFlags(command).option(
      "--run <id>",
      "run id; an existing run is continued (default: a new UUIDv7)",
    ),
  ).addOption(
    command
      .createOption(
        "--spool <size>",
        "most bytes to keep on disk (in TMPDIR) while the server is away; then input waits",
      )
      .argParser(parseSize)
      .default(parseSize(defaultSpool), defaultSpool),
  );
}

/** Reads a number of bytes. */
function parseSize(value: string): number {
  const bytes = parseBytes(value);
  if (bytes === undefined) throw new InvalidArgumentError("use a size such as 64MiB or 2GiB.");
  return bytes;
}

/** Reads a duration into milliseconds. */
export function parseDuration(value: string): number {
  const ms = parseDurationMs(value);
  if (ms === undefined || ms > longestTimerMs) {
    throw new InvalidArgumentError("use a duration such as 500ms, 10s or 5m, at most 24d.");
  }
  return ms;
}

/** Reads a time, or a duration before now, into a time. */
export function parseTime(value: string): Date {
  const ms = parseDurationMs(value);
  // Not what Date would make of "2026" or "5": the year and month that somebody may not mean.
  const isTime = /^\d{4}-\d\d-\d\d([T ]|$)/.test(value);
  const time = new Date(ms === undefined ? value : Date.now() - ms);
  const year = time.getUTCFullYear();
  if ((ms === undefined && !isTime) || !(year >= 1970 && year <= 9999)) {
    throw new InvalidArgumentError("use a duration such as 10m or 2h, or 2026-01-31T12:00:00Z.");
  }
  return time;
}

/** Adds --yes. */
export function addConfirmFlag(command: Command): Command {
  return command.option("--yes", "do not ask");
}

/** What a new run is, by its flags. */
export function specOf(
  flags: SpecFlags,
  displayName: string,
): MessageInitShape<typeof RunSpecSchema> {
  return {
    parentRunId: typeof flags.parent === "string" ? flags.parent : "",
    agentId: flags.agent ?? "",
    conversationId: flags.conversation ?? "",
    displayName: flags.name ?? displayName,
  };
}

/** The same flags again, for a command line that is to mean the same run or the same server. */
export function repeatFlags(flags: ConnectionFlags & SpecFlags): {
  readonly connection: string;
  readonly spec: string;
} {
  const environment = readEnvironment();
  const flag = (name: string, value: string | undefined) =>
    value === undefined ? "" : ` --${name} ${shellWord(value)}`;
  const unless = (value: string | undefined, usual: string | undefined) =>
    value === usual ? undefined : value;
  return {
    connection:
      flag("server", unless(flags.server, environment.server)) +
      flag("token-file", unless(flags.tokenFile, environment.tokenFile)) +
      flag("ca", unless(flags.ca, environment.ca)) +
      flag("cert", unless(flags.cert, environment.cert)) +
      flag("key", unless(flags.key, environment.key)) +
      flag("namespace", unless(flags.namespace, environment.namespace)),
    spec:
      (flags.parent === false ? " --no-parent" : flag("parent", flags.parent)) +
      flag("agent", flags.agent) +
      flag("conversation", flags.conversation) +
      flag("name", flags.name),
  };
}

/** A word that a POSIX shell reads as it is. */
function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
