/** Records on standard output: readable lines, or JSON. */
import { type DescMessage, type MessageShape, toJsonString } from "@bufbuild/protobuf";
import { type SequencedEvent, SequencedEventSchema } from "../../gen/runlog/v1/record_pb.js";
import { terminalColors } from "./colors.ts";
import { stdout } from "./output.ts";
import { renderRecord } from "./render-record.ts";
import { RunNames } from "./run-names.ts";
import { printableJson } from "./text.ts";

/** A message as a line of JSON; on a terminal with nothing in it that steers one. */
export function jsonLine<Desc extends DescMessage>(
  schema: Desc,
  message: MessageShape<Desc>,
): string {
  const json = toJsonString(schema, message);
  return `${process.stdout.isTTY ? printableJson(json) : json}\n`;
}

/** Prints records in the order given. Throws OutputClosedError. */
export type RecordPrinter = (records: readonly SequencedEvent[]) => Promise<void>;

/** Makes a printer. One write for all records of a call: a line each would cost a system call each. */
export function recordPrinter({ json }: { readonly json?: true }): RecordPrinter {
  if (json) {
    return (records) =>
      stdout.write(records.map((record) => jsonLine(SequencedEventSchema, record)).join(""));
  }
  const names = new RunNames();
  const colors = terminalColors();
  return (records) => {
    const columns = process.stdout.isTTY ? process.stdout.columns : undefined;
    // First all names: newest first, a run's start comes after its events.
    for (const record of records) names.learn(record);
    const lines = records.map((record) => `${renderRecord(record, { colors, names, columns })}\n`);
    return stdout.write(lines.join(""));
  };
}
