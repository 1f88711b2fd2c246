/** What a process has to know although nobody listens for it. */
import type { TokenError } from "./errors.ts";
import type { Drop } from "./sender-types.ts";

/** Node's way to warn, which a process can trace and switch off. */
interface WarningProcess {
  emitWarning?: (message: string, options: { readonly type: string }) => void;
}

/** Says that a sender without onDrop loses events; called for the first one. */
export function warnOfDrop(runId: string, { reason, problem = "", event }: Drop): void {
  const why = {
    overflow: "its buffer is full: await ready() before emit",
    too_large: "it is larger than the server accepts",
    invalid: `it is not valid: ${problem}`,
  }[reason];
  const message =
    `run ${runId}: an event of type ${JSON.stringify(event.type)} was dropped, ${why}. ` +
    "Later drops are counted only (stats.dropped); pass onDrop to hear of each.";
  warn(message);
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
