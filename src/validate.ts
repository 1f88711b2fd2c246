/**
 * The rules for what comes from outside: names, ids, places, specs, results,
 * events, and whatever no database, or no reader, can hold. The server applies
 * them to every request, and the client to what it is about to send. `field` names
 * the place of the value in the request, as a path, and goes into the refusal.
 *
 * Each function throws RefusedError with the field, what is wrong, and the limit.
 */
import {
  type DescField,
  type DescMessage,
  type MessageShape,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import {
  type Duration,
  DurationSchema,
  type Timestamp,
  TimestampSchema,
} from "@bufbuild/protobuf/wkt";
import type { Event } from "../gen/runlog/v1/event_pb.js";
import {
  type RunResult,
  RunResultSchema,
  type RunSpec,
  RunState,
  type Wait,
  WaitSchema,
} from "../gen/runlog/v1/run_pb.js";
import {
  type Limits,
  maxAttributes,
  maxAttributeValueBytes,
  maxContentTypeBytes,
  maxHolderNameBytes,
  maxKeyBytes,
  maxLabelValueBytes,
  maxLeaseMs,
  maxNamespaceBytes,
  maxProducerIdBytes,
  maxRunIdBytes,
  maxSignalIdBytes,
  maxSpecStringBytes,
  maxSuppressed,
  maxTypeBytes,
  maxWaitCodeBytes,
  minLeaseMs,
} from "./limits.ts";
import { invalidField, RefusedError } from "./refusal.ts";
import { isDuration, isTimestamp } from "./times.ts";
import { encodeText } from "./wire/field-writer.ts";

/** Bytes of a string in UTF-8, without encoding the usual short one. */
function exceeds(text: string, limit: number): boolean {
  // A UTF-16 unit takes one to three bytes of UTF-8.
  if (text.length > limit) return true;
  return text.length * 3 > limit && encodeText(text).length > limit;
}

/** Checks the length of a text in UTF-8. */
export function checkLength(field: string, text: string, limit: number): void {
  if (exceeds(text, limit)) throw invalidField(field, `is longer than ${limit} bytes`, limit);
}

/** Returns the namespace's name; empty means "default". */
export function checkNamespace(field: string, name: string): string {
  if (name === "") return "default";
  checkLength(field, name, maxNamespaceBytes);
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) {
    throw invalidField(
      field,
      "must consist of letters, digits, '.', '_' and '-', with a letter or digit first",
    );
  }
  return name;
}

/** Checks a run id: 1 to 128 visible ASCII characters. */
export function checkRunId(field: string, runId: string): void {
  if (runId === "") throw invalidField(field, "is missing");
  checkLength(field, runId, maxRunIdBytes);
  checkVisible(field, runId);
}

/** Checks a name of visible ASCII characters. */
function checkVisible(field: string, text: string): void {
  if (!/^[\x21-\x7e]+$/.test(text)) {
    throw invalidField(field, "must consist of visible ASCII characters, without spaces");
  }
}

/** Checks a signal's id: 1 to 128 visible ASCII characters. */
export function checkSignalId(field: string, signalId: string): void {
  checkLength(field, signalId, maxSignalIdBytes);
  checkVisible(field, signalId);
}

/** Checks the name of a minted token's holder: up to 128 visible ASCII characters but ">"; or none. */
export function checkHolderName(field: string, name: string): void {
  if (name === "") return;
  checkLength(field, name, maxHolderNameBytes);
  checkVisible(field, name);
  if (name.includes(">")) throw invalidField(field, 'contains ">", which separates names');
}

/** Turns a uint64 that names a place into a number; places stay below 2^53. */
export function checkPlace(field: string, value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw invalidField(field, "is beyond 2^53 - 1");
  return Number(value);
}

/** How a producer names itself where it opens a run. */
export interface Attempt {
  /** Drawn at random when the producer began with the run. */
  readonly producerId: string;
  /** Which of its tries to open the run this is. */
  readonly number: number;
}

/**
 * Checks how a producer names itself; undefined where it does not.
 *
 * @param path of the message that holds both fields, with its dot
 */
export function checkAttempt(
  path: string,
  { producerId, attempt }: { readonly producerId: string; readonly attempt: bigint },
): Attempt | undefined {
  if (producerId === "") return undefined;
  checkLength(`${path}producer_id`, producerId, maxProducerIdBytes);
  checkVisible(`${path}producer_id`, producerId);
  return { producerId, number: checkPlace(`${path}attempt`, attempt) };
}

/** Checks a map of texts: its size, its keys and its values. */
export function checkPairs(
  field: string,
  pairs: Readonly<Record<string, string>>,
  maxPairs: number,
  maxValueBytes: number,
): void {
  let count = 0;
  for (const key in pairs) {
    if (++count > maxPairs) throw invalidField(field, `has more than ${maxPairs} pairs`, maxPairs);
    if (key === "") throw invalidField(field, "has an empty key");
    const value = pairs[key] ?? "";
    checkText(`${field} (a key)`, key);
    checkLength(`${field} (a key)`, key, maxKeyBytes);
    const place = `${field}[${JSON.stringify(key)}]`;
    checkText(place, value);
    checkLength(place, value, maxValueBytes);
  }
}

/** Checks what a caller says of a new run. */
export function checkSpec(
  field: string,
  spec: RunSpec,
  { maxLabels }: Pick<Limits, "maxLabels">,
): void {
  if (spec.parentRunId !== "") checkRunId(`${field}.parent_run_id`, spec.parentRunId);
  checkLength(`${field}.conversation_id`, spec.conversationId, maxSpecStringBytes);
  checkLength(`${field}.agent_id`, spec.agentId, maxSpecStringBytes);
  checkLength(`${field}.agent_version`, spec.agentVersion, maxSpecStringBytes);
  checkLength(`${field}.display_name`, spec.displayName, maxSpecStringBytes);
  checkPairs(`${field}.labels`, spec.labels, maxLabels, maxLabelValueBytes);
  if (spec.lease !== undefined) {
    const leaseMs = Number(spec.lease.seconds) * 1000 + spec.lease.nanos / 1e6;
    if (!(leaseMs >= minLeaseMs && leaseMs <= maxLeaseMs)) {
      throw invalidField(`${field}.lease`, `must be from ${minLeaseMs} ms to ${maxLeaseMs} ms`);
    }
  }
}

/** Checks a producer's result. */
export function checkResult(
  field: string,
  result: RunResult | undefined,
  maxBytes: number,
): RunResult {
  if (result === undefined) throw invalidField(field, "is missing");
  switch (result.state) {
    case RunState.SUCCEEDED:
    case RunState.CANCELLED:
      if (result.failure !== undefined) {
        throw invalidField(`${field}.failure`, "is allowed with the state FAILED only");
      }
      break;
    case RunState.FAILED:
      break;
    default:
      throw invalidField(`${field}.state`, "must be SUCCEEDED, FAILED or CANCELLED");
  }
  if (result.suppressed.length > maxSuppressed) {
    throw invalidField(
      `${field}.suppressed`,
      `has more than ${maxSuppressed} failures`,
      maxSuppressed,
    );
  }
  checkLength(`${field}.output_content_type`, result.outputContentType, maxContentTypeBytes);
  const bytes = toBinary(RunResultSchema, result).length;
  if (bytes > maxBytes) throw new RefusedError({ reason: "too_large", field, limit: maxBytes });
  return result;
}

/** Checks what a run is to wait for. */
export function checkWait(field: string, wait: Wait | undefined, maxBytes: number): Wait {
  if (wait === undefined) throw invalidField(field, "is missing");
  const { code, question } = wait;
  if (code === "") throw invalidField(`${field}.code`, "is missing");
  checkLength(`${field}.code`, code, maxWaitCodeBytes);
  if (question !== undefined) checkEvent(`${field}.question`, question);
  const bytes = toBinary(WaitSchema, wait).length;
  if (bytes > maxBytes) throw new RefusedError({ reason: "too_large", field, limit: maxBytes });
  return wait;
}

/** Checks an event's type: one line of 1 to 128 bytes. */
export function checkEventType(field: string, type: string): void {
  if (type === "") throw invalidField(field, "is missing");
  checkLength(field, type, maxTypeBytes);
  checkText(field, type);
  if (hasControlCharacter(type)) throw invalidField(field, "contains a control character");
}

function hasControlCharacter(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x20 || unit === 0x7f) return true;
  }
  return false;
}

/** Checks all of an event but its size and its data, which may be anything. */
export function checkEvent(
  field: string,
  event: Pick<Event, "type" | "contentType" | "attributes" | "time">,
): void {
  checkEventType(`${field}.type`, event.type);
  checkText(`${field}.content_type`, event.contentType);
  checkLength(`${field}.content_type`, event.contentType, maxContentTypeBytes);
  checkPairs(`${field}.attributes`, event.attributes, maxAttributes, maxAttributeValueBytes);
  if (event.time !== undefined) checkTimestamp(`${field}.time`, event.time);
}

/**
 * Checks everything in a message that no journal can hold or no reader can read,
 * at any depth: texts with U+0000, which PostgreSQL does not take, or with half a
 * surrogate pair, and times that JSON cannot write.
 *
 * @param field the message's path; empty for the request itself
 */
export function checkMessage<Desc extends DescMessage>(
  field: string,
  desc: Desc,
  message: MessageShape<Desc>,
): void {
  for (const check of checksOf(desc)) check(field, message as unknown as Values);
}

type Values = Readonly<Record<string, unknown>>;
type Check = (field: string, message: Values) => void;

const checks = new WeakMap<DescMessage, readonly Check[]>();

function checksOf(desc: DescMessage): readonly Check[] {
  let found = checks.get(desc);
  if (found === undefined) {
    found = desc.fields.flatMap((field) => checkOf(field) ?? []);
    checks.set(desc, found);
  }
  return found;
}

function checkOf(field: DescField): Check | undefined {
  const check = checkOfValue(field);
  if (field.fieldKind === "map") {
    return (at, message) => {
      const pairs = message[field.localName] as Values;
      for (const key in pairs) {
        checkText(`${pathOf(at, field)} (a key)`, key);
        const shown = JSON.stringify(key.slice(0, maxKeyBytes));
        check?.(`${pathOf(at, field)}[${shown}]`, pairs[key]);
      }
    };
  }
  if (check === undefined) return undefined;
  if (field.fieldKind === "list") {
    return (at, message) => {
      (message[field.localName] as readonly unknown[]).forEach((item, index) => {
        check(`${pathOf(at, field)}[${index}]`, item);
      });
    };
  }
  const { oneof, localName } = field;
  return (at, message) => {
    let value: unknown;
    if (oneof === undefined) value = message[localName];
    else {
      const chosen = message[oneof.localName] as {
        readonly case?: string;
        readonly value: unknown;
      };
      if (chosen.case === localName) value = chosen.value;
    }
    // Most are texts in which nothing is wrong: for these no path is made.
    if (value === undefined || (typeof value === "string" && isText(value))) return;
    check(pathOf(at, field), value);
  };
}

function pathOf(at: string, { name }: DescField): string {
  return at === "" ? name : `${at}.${name}`;
}

/** The check of one value of a field; undefined where there is nothing to check. */
function checkOfValue(field: DescField): ((at: string, value: unknown) => void) | undefined {
  if (field.scalar === ScalarType.STRING) return (at, value) => checkText(at, value as string);
  switch (field.message?.typeName) {
    case undefined:
      return undefined;
    case TimestampSchema.typeName:
      return (at, value) => checkTimestamp(at, value as Timestamp);
    case DurationSchema.typeName:
      return (at, value) => checkDuration(at, value as Duration);
    default:
      return (at, value) => checkMessage(at, field.message!, value as never);
  }
}

function isText(text: string): boolean {
  return text.isWellFormed() && !text.includes("\0");
}

function checkText(field: string, text: string): void {
  if (text.includes("\0")) throw invalidField(field, "contains U+0000");
  if (!text.isWellFormed()) throw invalidField(field, "contains half a surrogate pair");
}

function checkTimestamp(field: string, time: Timestamp): void {
  if (!isTimestamp(time)) throw invalidField(field, "must be a time in the years 1 to 9999");
}

function checkDuration(field: string, duration: Duration): void {
  if (isDuration(duration)) return;
  throw invalidField(
    field,
    "must be at most 10,000 years, with seconds and nanos of the same sign",
  );
}
