/**
 * An agent that asks a person before it acts. It reads signals from its standard input and
 * writes events to its standard output, a line of JSON each:
 *
 *     runlog exec --run cleanup --signals stdin -- node examples/approval-agent.ts
 *
 * docs/input.md walks through it.
 */
import { createInterface } from "node:readline";

/** A signal, as `runlog exec --help` describes it. */
interface SignalLine {
  readonly signal_seq: number;
  readonly type: string;
  readonly data?: { readonly approved?: boolean; readonly text?: string };
}

function say(line: object): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** Asks, and lets the run wait: no lease runs, and this process may end. */
function ask(): void {
  say({ type: "question", text: "Delete the backups of 2024?", wait: { code: "approval" } });
}

ask();
for await (const line of createInterface({ input: process.stdin })) {
  const { signal_seq, type, data } = JSON.parse(line) as SignalLine;
  if (type === "approval") {
    // With its signal_seq, the line that answers a signal also records it as handled.
    say({ type: data?.approved === true ? "backups.deleted" : "backups.kept", signal_seq });
    break;
  }
  say({ type: "answer", signal_seq, text: `I need an approval, not "${data?.text ?? type}".` });
  ask();
}
// It stays open as long as this process runs.
process.stdin.destroy();
