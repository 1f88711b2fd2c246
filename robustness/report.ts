import type { Verdict } from "./history/check.ts";
import type { Violation } from "./history/violation.ts";

/** What an attack came to. */
export interface AttackResult {
  readonly name: string;
  /** Longest wait of each call of the canary while it lasted, in milliseconds. */
  readonly worstWaitMs: Readonly<Record<string, number>>;
  readonly peakRssBytes: number;
  readonly violations: readonly Violation[];
}

interface FaultRow {
  times: number;
  histories: number;
  ackedEvents: number;
  worstStallMs: number;
}

/** Violations that are printed of one history. */
const maxPrinted = 8;
/** Characters of each of them. */
const maxChars = 300;

/** What all histories and attacks of a run come to, for people. */
export class Report {
  readonly #faults = new Map<string, FaultRow>();
  readonly #attacks: AttackResult[] = [];
  readonly #totals = {
    histories: 0,
    ackedEvents: 0,
    ackedSignals: 0,
    seenRecords: 0,
    violations: 0,
  };

  get isBroken(): boolean {
    return this.#totals.violations > 0;
  }

  /** Adds a history, and prints what is broken in it. */
  addHistory(path: string, verdict: Verdict): void {
    const { violations, ackedEvents, ackedSignals, seenRecords, faults } = verdict;
    this.#totals.histories++;
    this.#totals.ackedEvents += ackedEvents;
    this.#totals.ackedSignals += ackedSignals;
    this.#totals.seenRecords += seenRecords;
    this.#print(path, violations);
    for (const [name, { times, worstStallMs }] of faults) {
      const row = this.#faults.get(name) ?? {
        times: 0,
        histories: 0,
        ackedEvents: 0,
        worstStallMs: 0,
      };
      row.times += times;
      row.histories++;
      row.ackedEvents += ackedEvents;
      row.worstStallMs = Math.max(row.worstStallMs, worstStallMs);
      this.#faults.set(name, row);
    }
  }

  /** Adds an attack, and prints how it went. */
  addAttack(result: AttackResult): void {
    this.#attacks.push(result);
    this.#print(result.name, result.violations);
  }

  /** Both tables, in Markdown, and a last line. */
  text(): string {
    const { histories, ackedEvents, ackedSignals, seenRecords, violations } = this.#totals;
    const lines: string[] = [];
    if (histories > 0) {
      lines.push(
        "| fault | times | histories | acknowledged events in them | longest time without an acknowledgement |",
        "| --- | --- | --- | --- | --- |",
        ...[...this.#faults]
          .toSorted(([a], [b]) => a.localeCompare(b))
          .map(
            ([name, row]) =>
              `| ${name} | ${row.times} | ${row.histories} | ${row.ackedEvents} | ${seconds(row.worstStallMs)} |`,
          ),
        "",
      );
    }
    if (this.#attacks.length > 0) {
      const kinds = Object.keys(this.#attacks[0]!.worstWaitMs);
      lines.push(
        `| attack | ${kinds.map((kind) => `worst ${kind}`).join(" | ")} | server's peak RSS |`,
        `| --- | ${kinds.map(() => "---").join(" | ")} | --- |`,
        ...this.#attacks.map(
          ({ name, worstWaitMs, peakRssBytes }) =>
            `| ${name} | ${kinds.map((kind) => `${Math.round(worstWaitMs[kind] ?? 0)} ms`).join(" | ")} | ${Math.round(peakRssBytes / 2 ** 20)} MiB |`,
        ),
        "",
      );
    }
    lines.push(
      `${histories} histories with ${ackedEvents} acknowledged events, ${ackedSignals} acknowledged signals and ${seenRecords} records at subscribers, ${this.#attacks.length} attacks: ${violations === 0 ? "every promise was kept" : `${violations} VIOLATIONS`}`,
    );
    return lines.join("\n");
  }

  #print(where: string, violations: readonly Violation[]): void {
    this.#totals.violations += violations.length;
    if (violations.length === 0) return;
    console.log(`BROKEN: ${where}`);
    for (const { promise, what } of violations.slice(0, maxPrinted)) {
      console.log(`  ${promise}: ${what.slice(0, maxChars)}`);
    }
    if (violations.length > maxPrinted) console.log(`  and ${violations.length - maxPrinted} more`);
    const counts = Map.groupBy(violations, ({ promise }) => promise);
    console.log(
      `  ${[...counts].map(([promise, all]) => `${all.length} × ${promise}`).join(", ")}`,
    );
  }
}

const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;
