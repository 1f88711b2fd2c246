/** What a process has to know although nobody listens for it. */
import type { TokenError } from "./errors.ts";

/** Node's way to warn, which a process can trace and switch off. */
interface WarningProcess {
  emitWarning?: (message: string, options: { readonly type: string }) => void;
}

/** An event that was dropped, as a warning says it. */
export interface DropNotice {
  readonly reason: "overflow" | "too_large" | "invalid" | "ended";
  readonly type: string;
  readonly problem?: string | undefined;
}

/** Says that a producer without onDrop loses events; called for the first one. */
export function warnOfDrop(runId: string, { reason, type, problem = "" }: DropNotice): void {
  const why = {
    overflow: "its buffer is full: wait for room before emit",
    too_large: "it is larger than the server accepts",
    invalid: `it is not valid: ${problem}`,
    ended: "it came after the run's end, or after its producer's",
  }[reason];
  const message =
    `run ${runId}: an event of type ${JSON.stringify(type)} was dropped, ${why}. ` +
    "Later drops are counted only; pass onDrop to hear of each.";
  warn(message);
}

/** Says that a run without onError is recorded no longer. */
export function warnOfFailure(runId: string, { message }: Error): void {
  warn(`run ${runId} is recorded no longer: ${message}`);
}

/** Says that a listener threw, which the caller of listeners cannot do anything about. */
export function warnOfListener(error: unknown): void {
  warn(`a listener threw: ${error instanceof Error ? error.message : String(error)}`);
}

/** Says that calls get no token; called for the first failure in a row. */
export function warnOfProvider({ message, isFinal }: TokenError): void {
  warn(isFinal ? message : `${message}; it is asked again, with growing waits`);
}

function warn(message: string): void {
  const { process } = globalThis as { readonly process?: WarningProcess };
  // biome-ignore lint/suspicious/noConsole: without a process there is no other place for a warning.
  if (process?.emitWarning === undefined) console.warn(message);
  else process.emitWarning(message, { type: "RunlogWarning" });
}
