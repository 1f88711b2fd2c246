/**
 * The work that the demo's workers do: counting and linting source files.
 *
 * Invariant: the events of a file are a function of its bytes, so a worker
 * that is started again comes to the same events in the same order.
 */
import { type Dirent, readdirSync, readFileSync } from "node:fs";
import { extname, join } from "node:path";
import type { EventInit } from "../src/client/index.ts";

/** What a worker adds up. */
export interface Counts {
  readonly files: number;
  readonly lines: number;
  readonly words: number;
  readonly findings: number;
}

/** What one file gave. */
export interface Analysis {
  readonly events: readonly EventInit[];
  readonly counts: Counts;
}

/** An empty sum. */
export const noCounts: Counts = { files: 0, lines: 0, words: 0, findings: 0 };

/** Adds two sums. */
export function add(a: Counts, b: Counts): Counts {
  return {
    files: a.files + b.files,
    lines: a.lines + b.lines,
    words: a.words + b.words,
    findings: a.findings + b.findings,
  };
}

const sources = new Set([".ts", ".js", ".mjs", ".cjs", ".proto", ".md", ".json", ".yaml", ".yml"]);
const maxLineLength = 100;
const maxFileLines = 400;
const maxNesting = 5;

/** An event whose payload is a JSON object. */
export function jsonEvent(type: string, value: object): EventInit {
  return { type, data: new TextEncoder().encode(JSON.stringify(value)) };
}

/** The directories and the source files right below a directory, by name. */
export function contentsOf(directory: string): {
  readonly directories: string[];
  readonly files: string[];
} {
  const byName = (a: Dirent, b: Dirent) => (a.name < b.name ? -1 : 1);
  const entries = readdirSync(directory, { withFileTypes: true })
    .filter((entry) => !entry.name.startsWith("."))
    .sort(byName);
  return {
    directories: entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name),
    files: entries
      .filter((entry) => entry.isFile() && sources.has(extname(entry.name)))
      .map((entry) => entry.name),
  };
}

/** All source files below a directory, as paths relative to it. */
export function filesBelow(directory: string): string[] {
  const { directories, files } = contentsOf(directory);
  return [
    ...files,
    ...directories.flatMap((name) =>
      filesBelow(join(directory, name)).map((file) => join(name, file)),
    ),
  ];
}

/** Counts and lints one file. `path` stands in the events. */
export function analyze(file: string, path: string): Analysis {
  const text = readFileSync(file, "utf8");
  const lines = text.split("\n");
  const words = text.split(/\s+/).filter((word) => word !== "").length;
  const events: EventInit[] = [
    jsonEvent("file.counted", { path, lines: lines.length, words, bytes: Buffer.byteLength(text) }),
  ];
  let findings = 0;
  const report = (line: number, rule: string) => {
    findings++;
    events.push(jsonEvent("finding", { path, line, rule }));
  };
  let before = "";
  for (const [index, line] of lines.entries()) {
    const number = index + 1;
    for (const rule of rulesBrokenBy(line, before)) {
      report(number, rule);
    }
    const symbol = /^export (?:declare )?(?:abstract )?(?:async )?\w+\*? (\w+)/.exec(line)?.[1];
    if (symbol !== undefined) {
      events.push(jsonEvent("symbol.exported", { path, line: number, symbol }));
    }
    const imported = /\bfrom "([^"]+)"|^import "([^"]+)"/.exec(line);
    if (imported !== null) {
      events.push(jsonEvent("import.found", { path, from: imported[1] ?? imported[2] }));
    }
    before = line;
  }
  if (lines.length > maxFileLines) {
    report(lines.length, "file-too-long");
  }
  return { events, counts: { files: 1, lines: lines.length, words, findings } };
}

function rulesBrokenBy(line: string, before: string): string[] {
  const indent = /^ */.exec(line)?.[0].length ?? 0;
  const rules: readonly (readonly [string, boolean])[] = [
    ["line-too-long", line.length > maxLineLength],
    ["trailing-whitespace", /[ \t]$/.test(line)],
    ["tab-indent", line.startsWith("\t")],
    ["marker", /\b(?:TODO|FIXME|XXX)\b/.test(line)],
    ["deep-nesting", line.trim() !== "" && indent > maxNesting * 2 && !line.startsWith(" *")],
    [
      "export-without-docstring",
      /^export (?!\{|\*|type \{)/.test(line) && !/\*\/\s*$/.test(before),
    ],
  ];
  return rules.filter(([, broken]) => broken).map(([name]) => name);
}
