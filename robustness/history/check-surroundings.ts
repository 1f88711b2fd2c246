/** What was seen of the servers themselves: logs, ends, recovery, memory. */
import type { Entry } from "./entry.ts";
import type { PromiseName, Violation } from "./violation.ts";

/** What is asked of servers around faults. */
export interface CheckBounds {
  /** Milliseconds from the end of a fault until a node serves, writes included. */
  readonly recoveryMs: number;
}

/** Checks logs, ends, recovery and memory, and what nemeses found by themselves. */
export function checkSurroundings(
  entries: readonly Entry[],
  { recoveryMs }: CheckBounds,
): Violation[] {
  return entries.flatMap((entry): Violation[] => {
    const violation = (promise: PromiseName, what: string) => [{ promise, what }];
    switch (entry.t) {
      case "log":
        return isUnexpected(entry.line)
          ? violation("nothing fails unexpectedly", `${entry.node}: ${entry.line.slice(0, 500)}`)
          : [];
      case "exit":
        return entry.isWanted
          ? []
          : violation("a server ends when it is told to", `${entry.node} ended: ${entry.status}`);
      case "recovered":
        return entry.tookMs <= recoveryMs
          ? []
          : violation(
              "serving again",
              `${entry.node} took ${entry.tookMs} ms after ${entry.fault}, more than ${recoveryMs}`,
            );
      case "memory":
        return entry.rssBytes <= entry.maxBytes
          ? []
          : violation(
              "memory is bounded",
              `${entry.node} had ${mebibytes(entry.rssBytes)} MiB, more than ${mebibytes(entry.maxBytes)}`,
            );
      case "found":
        return violation("found by the nemesis", `${entry.promise}: ${entry.what}`);
      default:
        return [];
    }
  });
}

const mebibytes = (bytes: number) => Math.round(bytes / 2 ** 20);

/**
 * Whether a line of a log says that something happened that nobody thought of. An error of the
 * system or of a database has a code, and may come with its stack; one without is the
 * server's own.
 */
export function isUnexpected(line: string): boolean {
  if (/failed unexpectedly|uncaught|unhandled|^ {4}at /i.test(line)) return true;
  return /\\n {4}at /.test(line) && !/"code":"[^"]+"/.test(line);
}
