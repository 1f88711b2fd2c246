/**
 * A record as one readable line: seq, time, who in the tree, what.
 */
import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { Event } from "../../gen/runlog/v1/event_pb.js";
import type { RunFinished, SequencedEvent } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import type { Colors } from "./colors.ts";
import type { RunNames } from "./run-names.ts";
import { countText, cut, cutFront, fill, printable, widthOf } from "./text.ts";

type Paint = (text: string) => string;

/** Columns of the path in the tree. */
const maxWhoColumns = 28;
/** Columns of the type, unless it is longer. */
const maxTypeColumns = 18;
/** Share of a narrow terminal that each takes: most of a line is for what happened. */
const whoShare = 0.22;
const typeShare = 0.15;
const minColumns = 9;
/** Bytes of a payload that are looked at, where the width does not say less. */
const maxPayloadBytes = 16 * 1024;

/** How to render. */
export interface RenderOptions {
  readonly colors: Colors;
  readonly names: RunNames;
  /** Columns to cut at; undefined: never. */
  readonly columns: number | undefined;
}

/** What a record says, before it is laid out. */
interface What {
  readonly type: string;
  readonly text: string;
  readonly paint: Paint;
}

/** Renders one record, without a newline. */
export function renderRecord(record: SequencedEvent, options: RenderOptions): string {
  const { colors, names, columns } = options;
  const seq = String(record.seq).padStart(6);
  const time = record.recordTime === undefined ? "" : clock(timestampDate(record.recordTime));
  const whoColumns = shareOf(columns, whoShare, maxWhoColumns);
  const typeColumns = shareOf(columns, typeShare, maxTypeColumns);
  const who = fill(cutFront(printable(names.path(record.runId)), whoColumns), whoColumns);
  const what = whatOf(record, colors, columns);
  const type = fill(what.type, typeColumns);
  // seq, time, who, type, with two spaces after each but the first.
  const before = seq.length + 1 + time.length + 2 + widthOf(who) + 2 + widthOf(type) + 2;
  const text = columns === undefined ? what.text : cut(what.text, columns - before);
  const line =
    `${colors.dim(seq)} ${colors.dim(time)}  ${runColor(record.runId, colors)(who)}  ` +
    `${what.paint(type)}  ${text}`;
  return line.trimEnd();
}

/** Columns of a share of the terminal, within bounds; all that it may have where there is none. */
function shareOf(columns: number | undefined, share: number, max: number): number {
  return columns === undefined
    ? max
    : Math.max(minColumns, Math.min(max, Math.floor(columns * share)));
}

function whatOf(record: SequencedEvent, colors: Colors, columns: number | undefined): What {
  const fact = record.record;
  switch (fact.case) {
    case "event":
      return {
        type: eventType(fact.value.type),
        text: payloadText(fact.value, columns ?? maxPayloadBytes),
        paint: fact.value.attributes["stream"] === "stderr" ? colors.yellow : colors.bold,
      };
    case "runStarted": {
      const { spec, depth, fork } = fact.value;
      const agent = spec?.agentId ? ` agent ${spec.agentId}` : "";
      const conversation = spec?.conversationId ? ` conversation ${spec.conversationId}` : "";
      const origin = fork === undefined ? "" : ` fork of ${fork.runId} at ${fork.runSeq}`;
      const text = `${record.runId} depth ${depth}${agent}${conversation}${origin}`;
      return { type: "> started", text: printable(text), paint: colors.cyan };
    }
    case "runFinished":
      return finished(fact.value, colors);
    case "signal": {
      const { signalSeq, sender, event } = fact.value;
      const from = sender === "" ? "" : ` from ${sender}`;
      const text = event === undefined ? "" : payloadText(event, columns ?? maxPayloadBytes);
      return {
        type: `! ${eventType(event?.type ?? "")}`,
        text: `${printable(`${signalSeq}${from}`)} ${text}`,
        paint: colors.yellow,
      };
    }
    case "runWaiting": {
      const { code = "", question, deadline } = fact.value.wait ?? {};
      const asked =
        question === undefined ? "" : ` ${payloadText(question, columns ?? maxPayloadBytes)}`;
      const until =
        deadline === undefined ? "" : `, until ${timestampDate(deadline).toISOString()}`;
      return {
        type: "> waiting",
        text: `for ${printable(code)}${until}${asked}`,
        paint: colors.yellow,
      };
    }
    case "runResumed":
      return {
        type: "> resumed",
        text: `after ${countText(fact.value.lastRunSeq, "event")}`,
        paint: colors.cyan,
      };
    default:
      return { type: "?", text: "a record of a newer runlog", paint: colors.dim };
  }
}

/** An event's type; in quotes where it could be taken for a fact about the run. */
function eventType(type: string): string {
  const text = printable(type);
  return /^[<>?!\s"]/.test(text) ? JSON.stringify(text) : text;
}

function finished(fact: RunFinished, colors: Colors): What {
  const state = fact.result?.state ?? RunState.UNSPECIFIED;
  const failure = fact.result?.failure;
  const why = failure === undefined ? "" : `: ${failure.code} ${failure.message}`;
  return {
    type: `< ${RunState[state]?.toLowerCase() ?? "ended"}`,
    text: printable(`${countText(fact.lastRunSeq, "event")}${why}`),
    paint: stateColor(state, colors),
  };
}

/** The payload on one line. `maxCharacters` only bounds the work: the layout cuts. */
function payloadText(event: Event, maxCharacters: number): string {
  // A character takes at most four bytes, so this is enough for the line.
  const bytes = event.data.subarray(0, Math.min(maxPayloadBytes, maxCharacters * 4));
  const { contentType } = event;
  if (contentType === "" || contentType === "application/json" || contentType.startsWith("text/")) {
    const more = bytes.length < event.data.length ? "…" : "";
    return printable(new TextDecoder().decode(bytes)) + more;
  }
  return `${event.data.length} bytes of ${printable(contentType)}`;
}

/** The colour that stands for a state everywhere. */
export function stateColor(state: RunState, colors: Colors): Paint {
  switch (state) {
    case RunState.SUCCEEDED:
      return colors.green;
    case RunState.FAILED:
      return colors.red;
    case RunState.LOST:
      return colors.magenta;
    case RunState.CANCELLED:
    case RunState.WAITING:
      return colors.yellow;
    default:
      return colors.cyan;
  }
}

/** The same colour for the same run, in every terminal. */
function runColor(runId: string, colors: Colors): Paint {
  const palette = [colors.blue, colors.magenta, colors.cyan, colors.green, colors.yellow];
  let hash = 0;
  for (let i = 0; i < runId.length; i++) {
    hash = (hash * 31 + runId.charCodeAt(i)) >>> 0;
  }
  return palette[hash % palette.length] ?? colors.white;
}

function clock(date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}
