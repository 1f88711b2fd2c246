/** `runlog serve`: the server in the foreground. */
import { Command, InvalidArgumentError } from "commander";
import type { Limits } from "../../limits.ts";
import { startTimer } from "../../timers.ts";
import {
  accessVariable,
  browserVariables,
  journalVariable,
  limitsVariable,
  readServerEnvironment,
  tlsVariables,
} from "../env.ts";
import { CommandError, exitStatus } from "../failure.ts";
import { limitLines, parseLimits } from "../limit-settings.ts";
import { notice, stdout } from "../output.ts";

/** Milliseconds for streams to end after SIGTERM; a supervisor kills after 10 s or more. */
const drainTimeoutMs = 8_000;
/** Milliseconds after which the process ends whatever the drain does. */
const exitTimeoutMs = 10_000;

/** Bytes of log that wait for a disk that is full; what comes later is not logged. */
const maxUnloggedBytes = 1024 * 1024;

interface Address {
  readonly host: string;
  readonly port: number;
}

interface ServeFlags {
  readonly listen: Address;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly tlsClientCa?: string;
  readonly plaintextListen?: Address;
  readonly trustXfccFrom?: string;
  readonly journal: string;
  readonly logLevel: string;
  readonly limit?: readonly string[];
  readonly holdFormat?: true;
  readonly access?: string;
  readonly allowAnyone?: true;
  readonly allowOrigin?: readonly string[];
  readonly hostName?: readonly string[];
}

/** Builds the command; `exit` takes the status. */
export function serveCommand(exit: (status: number) => void): Command {
  const command = new Command("serve");
  return command
    .description(
      "Start a server. When it is ready, prints `listening on URL` and the place of the events.",
    )
    .addOption(
      command
        .createOption("--listen <host:port>", "address to listen on; port 0 picks a free port")
        .argParser(parseListen)
        .default({ host: "127.0.0.1", port: 7400 }, "127.0.0.1:7400"),
    )
    .option(
      "--tls-cert <file>",
      "certificate of the server, in PEM, with those that lead to its authority",
      readServerEnvironment().tlsCert,
    )
    .option("--tls-key <file>", "key of the certificate, in PEM", readServerEnvironment().tlsKey)
    .option(
      "--tls-client-ca <file>",
      "authorities, in PEM, whose certificates identify clients; needs --access",
      readServerEnvironment().tlsClientCa,
    )
    .addOption(
      command
        .createOption("--plaintext-listen <host:port>", "address for plaintext beside TLS")
        .argParser(parseListen),
    )
    .addOption(
      command
        .createOption("--journal <url>", "place of the events: sqlite:PATH or postgres://…")
        .default(readServerEnvironment().journal, "sqlite:runlog.db"),
    )
    .option(
      "--access <file>",
      "who may do what: tokens, issuers of tokens, and their rights",
      readServerEnvironment().access,
    )
    .option(
      "--trust-xfcc-from <addresses>",
      "proxies whose x-forwarded-client-cert identifies clients: addresses or ranges such as 10.0.0.0/8, separated by commas; needs --access",
      readServerEnvironment().trustXfccFrom,
    )
    .option(
      "--allow-anyone",
      "without an access file, listen also where others reach it: they may read, write and delete everything",
    )
    .addOption(
      command
        .createOption(
          "--allow-origin <origin>",
          "let pages of an origin such as https://app.example.com call from a browser, repeatable",
        )
        .argParser(collect),
    )
    .addOption(
      command
        .createOption(
          "--host-name <name>",
          "name under which the server is reached, repeatable; localhost and IP addresses need none",
        )
        .argParser(collect),
    )
    .addOption(
      command
        .createOption("--log-level <level>", "least level to log, as JSON lines on standard error")
        .choices(["debug", "info", "warn", "error", "silent"])
        .default("warn"),
    )
    .addOption(
      command
        .createOption("--limit <name=value>", "set one of the limits below, repeatable")
        .argParser(collect),
    )
    .option(
      "--hold-format",
      "leave the journal's format as it is, so that the version before can still be started on it",
    )
    .addHelpText("after", help)
    .action(async (flags: ServeFlags, self: Command) => {
      const limits = limitsOf(flags, self);
      exit(await serve(flags, limits));
    });
}

const help = `
${journalVariable} sets the journal too. Use it for a URL with a password, because other users
of the machine can read a command line. Any number of servers may share one PostgreSQL. To
follow a failover, name all hosts of a primary and its standbys:
postgres://HOST,HOST/DATABASE.

Without an access file the server asks nobody who they are, and listens on this machine's
own addresses only. docs/security.md describes the file; ${accessVariable} names it too.

With --tls-cert and --tls-key, or ${tlsVariables.cert} and ${tlsVariables.key}, --listen speaks TLS
only. The server uses changed files for new connections, and leaves open streams alone.
${tlsVariables.clientCa} and ${tlsVariables.trustXfccFrom} set the other two flags.

Without an access file, or with --host-name, the server refuses calls under names that are not
its own: a page could have a name of its own lead here. It always refuses browsers that call
for pages of other origins, except those of --allow-origin. ${browserVariables.allowOrigins} and
${browserVariables.hostNames} set both, separated by spaces.

Limits and their defaults. ${limitsVariable}="name=value name=value" sets them too;
--limit overrides it. docs/limits.md has their ranges and reasons.
${limitLines().join("\n")}

SIGTERM and SIGINT drain: the server asks clients to reconnect elsewhere, and ends with
status 0 within ${exitTimeoutMs / 1000} s. A second signal ends it at once. Neither loses an acknowledged
event.

Examples:
  $ runlog serve
  $ runlog serve --listen 127.0.0.1:0 --journal sqlite:/var/lib/runlog/runlog.db
  $ runlog serve --listen 0.0.0.0:7400 --access access.json       reachable from other machines
  $ runlog serve --listen 0.0.0.0:7400 --access access.json --tls-cert cert.pem --tls-key key.pem
  $ runlog serve --access access.json --allow-origin https://app.example.com
  $ ${journalVariable}=postgres://runlog:secret@db/runlog runlog serve
  $ runlog serve --limit max-event-bytes=256KiB --limit progress-interval=5s
`;

/** Takes a flag that is repeatable. */
function collect(value: string, before: readonly string[] | undefined): readonly string[] {
  return [...(before ?? []), value];
}

function parseListen(value: string): Address {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+)):(\d{1,5})$/.exec(value);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65_535) {
    throw new InvalidArgumentError("use HOST:PORT such as 127.0.0.1:7400 or [::1]:7400.");
  }
  return { host, port };
}

function limitsOf(flags: ServeFlags, command: Command): Limits {
  const parsed = parseLimits([
    ...readServerEnvironment().limits.map((text) => ({ source: limitsVariable, text })),
    ...(flags.limit ?? []).map((text) => ({ source: "--limit", text })),
  ]);
  if (parsed.t === "mistakes") command.error(`error: ${parsed.mistakes.join("; ")}`);
  return parsed.limits;
}

/** The files for TLS; undefined where there are none. */
function tlsOf({ tlsCert: cert, tlsKey: key, tlsClientCa: clientCa, plaintextListen }: ServeFlags) {
  if (cert !== undefined && key !== undefined) return { cert, key, clientCa };
  if (cert === undefined && key === undefined) {
    if (plaintextListen === undefined && clientCa === undefined) return undefined;
    const [flag, instead] =
      plaintextListen === undefined
        ? ["--tls-client-ca", ""]
        : ["--plaintext-listen", ", or use --listen"];
    throw new CommandError(
      `${flag} is for a server with TLS: give --tls-cert and --tls-key${instead}`,
      exitStatus.usage,
    );
  }
  throw new CommandError("--tls-cert and --tls-key belong together: give both", exitStatus.usage);
}

function addressesIn(list = ""): readonly string[] {
  return list === "" ? [] : list.split(",").map((one) => one.trim());
}

async function serve(flags: ServeFlags, limits: Limits): Promise<number> {
  const { host, port } = flags.listen;
  const tls = tlsOf(flags);
  // Listened to from the start: a signal during start-up must not be lost.
  const stopping = Promise.withResolvers<NodeJS.Signals>();
  const onSignal = (signal: NodeJS.Signals) => {
    process.once("SIGTERM", exitAtOnce).once("SIGINT", exitAtOnce);
    startTimer(() => {
      endProcess(`not drained within ${exitTimeoutMs / 1000} s, ending`);
    }, exitTimeoutMs).unref();
    stopping.resolve(signal);
  };
  process.once("SIGTERM", onSignal).once("SIGINT", onSignal);
  // Loaded here alone: two thirds of all modules, which the other commands start without.
  const [{ pino }, { startServer }, { defendProcess }] = await Promise.all([
    import("pino"),
    import("../../server/server.ts"),
    import("../../server/last-defence.ts"),
  ]);
  const destination = pino.destination({ dest: 2, sync: true, maxLength: maxUnloggedBytes });
  // A log that cannot be written, on a full disk, must not fail the server.
  destination.on("error", () => undefined);
  const logger = pino({ level: flags.logLevel }, destination);
  defendProcess({ logger, end: exitAfterFault });
  if (flags.access !== undefined && flags.allowAnyone) {
    throw new CommandError(
      "--access and --allow-anyone contradict each other: leave one out",
      exitStatus.usage,
    );
  }
  const server = await startServer({
    host,
    port,
    journal: flags.journal,
    logger,
    drainTimeoutMs,
    limits,
    holdFormat: flags.holdFormat ?? false,
    allowAnyone: flags.allowAnyone ?? false,
    ...(flags.access === undefined ? {} : { accessFile: flags.access }),
    ...(tls === undefined ? {} : { tls }),
    trustXfccFrom: addressesIn(flags.trustXfccFrom),
    allowOrigins: flags.allowOrigin ?? readServerEnvironment().allowOrigins,
    hostNames: flags.hostName ?? readServerEnvironment().hostNames,
    ...(flags.plaintextListen === undefined ? {} : { plaintext: flags.plaintextListen }),
    onFatal: endProcess,
  }).catch((error: unknown) => {
    throw startFailure(error, flags);
  });
  const { url, plaintextUrl, journal } = server;
  const beside = plaintextUrl === undefined ? "" : `listening on ${plaintextUrl} in plaintext\n`;
  await stdout.write(`listening on ${url}\n${beside}events are in ${journal}\n`);
  logger.info({ signal: await stopping.promise }, "draining");
  await server.drain();
  return exitStatus.ok;
}

function exitAtOnce(): void {
  endProcess("second signal, ending at once");
}

function exitAfterFault(error: unknown): void {
  endProcess(
    `ending after a fault of the server: ${error instanceof Error ? error.message : error}`,
  );
}

/** Ends the process with a line that says why. */
function endProcess(problem: string): never {
  notice(problem);
  process.exit(exitStatus.failed);
}

/** The system's own errors say neither what failed nor what to do. */
function startFailure(error: unknown, flags: ServeFlags): unknown {
  const { name = "", message = "" } = error instanceof Error ? error : {};
  if (name === "ExposedError") {
    const exposed = error instanceof Error && "host" in error ? String(error.host) : "";
    return new CommandError(
      `anyone who can reach ${exposed} could read, write and delete everything: use --access FILE, ` +
        `${exposed === flags.listen.host ? "--listen 127.0.0.1:7400" : "--plaintext-listen 127.0.0.1:7401"}, ` +
        "or --allow-anyone if that is what you want",
      exitStatus.usage,
    );
  }
  if (name === "NoAccessFileError") {
    return new CommandError(
      "--tls-client-ca and --trust-xfcc-from need --access FILE, which says what a certificate grants",
      exitStatus.usage,
    );
  }
  if (name === "ProxyAddressError") {
    return new CommandError(`--trust-xfcc-from: ${message}`, exitStatus.usage);
  }
  if (name === "OriginError" || name === "HostNameError") {
    const flag = name === "OriginError" ? "--allow-origin" : "--host-name";
    return new CommandError(`${flag}: ${message}`, exitStatus.usage);
  }
  if (name === "MistakeError" || name === "TlsFileError") return new CommandError(message);
  const { plaintextListen } = flags;
  const failedPort = error instanceof Error && "port" in error ? error.port : undefined;
  const isBeside = plaintextListen !== undefined && failedPort === plaintextListen.port;
  const { host, port } = isBeside ? plaintextListen : flags.listen;
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  switch (code) {
    case "EADDRINUSE":
      return new CommandError(
        `${host}:${port} is in use by another server: use another --listen, or port 0`,
      );
    case "EADDRNOTAVAIL":
    case "ENOTFOUND":
      return new CommandError(`${host} is not an address of this machine: use another --listen`);
    case "EACCES":
      return new CommandError(`not allowed to listen on ${host}:${port}: use a port above 1023`);
    default:
      return error;
  }
}
