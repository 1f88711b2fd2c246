/**
 * What went wrong, in one line that says what to do, and the exit status.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { type ReasonName, RunlogError, SenderClosedError, toFinalError } from "../client/index.ts";

/** Exit statuses of runlog itself; `exec` passes its command's on. */
export const exitStatus = {
  ok: 0,
  /** Something failed; standard error says what. */
  failed: 1,
  /** The command line is wrong. */
  usage: 2,
  /** tail --exit-status: a run ended otherwise than SUCCEEDED. */
  unsuccessful: 3,
  /** exec: the command exists but cannot be run. */
  notExecutable: 126,
  /** exec: there is no such command. */
  notFound: 127,
  /** Plus the signal's number: ended by that signal. */
  signalBase: 128,
} as const;

/** For `--help`. */
export const exitStatusHelp = `
Exit status:
  0 done; 1 failed, see standard error; 2 wrong usage; 128+n ended by signal n`;

/** A failure whose message is the whole line for the user. */
export class CommandError extends Error {
  readonly status: number;

  constructor(message: string, status: number = exitStatus.failed, options?: ErrorOptions) {
    super(message, options);
    this.name = "CommandError";
    this.status = status;
  }
}

/** What a user of the command line can do about a refusal, where its message does not say it. */
function hintFor(reason: ReasonName): string | undefined {
  switch (reason) {
    case "RUN_NOT_FOUND":
      return "`runlog runs` lists the runs that exist";
    case "PARENT_NOT_FOUND":
      return "the parent comes from --parent or RUNLOG_RUN_ID; --no-parent starts a tree of its own";
    case "RUN_EXISTS":
      return "use the same --parent, --agent, --conversation and --name as before (without --name exec names a run by its command), or another --run";
    case "FENCED":
      return "acknowledged events are durable; the other producer continues the run";
    case "RUN_FINISHED":
      return "go on with another --run, or with a fork of this one (`runlog fork`)";
    case "CURSOR_TRIMMED":
    case "CURSOR_AHEAD":
      return "use another --after or --before, or none";
    case "DATA_LOSS":
      return "restore the server's journal from a backup, or skip the damage with --after";
    case "RUN_ID_LIMIT":
      return "use --ancestor";
    case "TOKEN_EXPIRED":
      return "write the new token into a file for --token-file, which is read again when it changes";
    case "TREE_IN_USE":
      return "`runlog runs --ancestor RUN --state running` lists the runs, `runlog cancel RUN --descendants` asks them to stop";
    default:
      return undefined;
  }
}

/** The same of an answer that is not runlog's own: a proxy's, or another server's. */
function hintForCode(code: Code | undefined): string | undefined {
  switch (code) {
    case Code.Unimplemented:
      return "the program that answers there does not know this call: is it runlog, at this path, and as new as this one?";
    case Code.Unauthenticated:
      return "a proxy in front of the server wants credentials: set RUNLOG_TOKEN, --token or --header";
    case Code.PermissionDenied:
      return "a proxy in front of the server does not permit this: check --token and --header";
    default:
      return undefined;
  }
}

/** The error that explains most: what aborted a sender lies behind the abort. */
export function innermost(error: unknown): unknown {
  return error instanceof SenderClosedError && error.cause !== undefined
    ? innermost(error.cause)
    : error;
}

/** One line for standard error. */
export function explain(thrown: unknown): string {
  const error = toFinalError(innermost(thrown));
  if (!(error instanceof RunlogError)) {
    return oneLine(error.message);
  }
  const hint = error.detail === undefined ? hintForCode(error.code) : hintFor(error.reason);
  const code = error.reason === "UNSPECIFIED" ? undefined : error.reason;
  const name = code ?? (error.code === undefined ? "refused" : Code[error.code]);
  return oneLine(`${error.message} [${name}]${hint === undefined ? "" : `; ${hint}`}`);
}

/** Why the server refused; undefined where it did not say. */
export function reasonOf(thrown: unknown): ReasonName | undefined {
  const error = toFinalError(innermost(thrown));
  return error instanceof RunlogError ? error.reason : undefined;
}

/** The status to exit with. */
export function statusOf(thrown: unknown): number {
  const error = innermost(thrown);
  return error instanceof CommandError ? error.status : exitStatus.failed;
}

/** Why a connection does not stand, short enough for a notice. */
export function shortReason(error: unknown): string {
  if (!(error instanceof ConnectError)) {
    return oneLine(error instanceof Error ? error.message : String(error));
  }
  // Our own aborts carry their own errors: this one is the other end's.
  return error.code === Code.Canceled ? "connection closed" : oneLine(error.rawMessage);
}

function oneLine(text: string): string {
  return text.replace(/\s*[\r\n]+\s*/g, " ").trim();
}
