/** Reads what `strace -f -yy -o FILE` wrote. */

/** One call, from its beginning to its end. */
export interface SystemCall {
  readonly thread: string;
  readonly name: string;
  /** As strace prints them: descriptors with their paths or peers, strings quoted. */
  readonly args: string;
  /** Undefined where it never returned, or returned no number. */
  readonly result: number | undefined;
  /** Numbers of the lines on which it began and ended. */
  readonly began: number;
  readonly ended: number;
}

/** The calls in the order in which they began. */
export function parseTrace(trace: string): SystemCall[] {
  const calls: SystemCall[] = [];
  const unfinished = new Map<string, { name: string; args: string; began: number }>();
  for (const [line, text] of trace.split("\n").entries()) {
    const [, thread, rest] = /^(\d+)\s+(.*)$/.exec(text) ?? [];
    if (thread === undefined || rest === undefined) continue;
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(rest);
    const begun = /^(\w+)\((.*)$/.exec(rest);
    const cut = / <unfinished \.\.\.>$/.exec(rest);
    if (begun !== null && cut !== null) {
      const args = begun[2]!.slice(0, -cut[0].length);
      unfinished.set(thread, { name: begun[1]!, args, began: line });
      continue;
    }
    const before = resumed === null ? undefined : unfinished.get(thread);
    const name = before?.name ?? begun?.[1];
    if (name === undefined) continue;
    unfinished.delete(thread);
    const tail = `${before?.args ?? ""}${resumed?.[1] ?? begun?.[2] ?? ""}`;
    const [, args, result] = /^(.*)\)\s+=\s+(-?\d+)[^"]*$/.exec(tail) ?? [undefined, tail];
    calls.push({
      thread,
      name,
      args: args ?? tail,
      result: result === undefined ? undefined : Number(result),
      began: before?.began ?? line,
      ended: line,
    });
  }
  return calls.sort((a, b) => a.began - b.began);
}
