/**
 * Checks of what comes from outside that the journal itself relies on: names,
 * ids, places, and whatever no database, or no reader, can hold. `field` names
 * the place of the value in the request, as a path, and goes into the refusal.
 *
 * Each function throws RefusedError with the field, what is wrong, and the limit.
 */
import {
  type DescField,
  type DescMessage,
  type MessageShape,
  ScalarType,
} from "@bufbuild/protobuf";
import {
  type Duration,
  DurationSchema,
  type Timestamp,
  TimestampSchema,
} from "@bufbuild/protobuf/wkt";
import { maxKeyBytes, maxNamespaceBytes, maxRunIdBytes } from "./limits.ts";
import { invalidField } from "./refusal.ts";
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
export function checkVisible(field: string, text: string): void {
  if (!/^[\x21-\x7e]+$/.test(text)) {
    throw invalidField(field, "must consist of visible ASCII characters, without spaces");
  }
}

/** Turns a uint64 that names a place into a number; places stay below 2^53. */
export function checkPlace(field: string, value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw invalidField(field, "is beyond 2^53 - 1");
  return Number(value);
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
    if (value !== undefined) check(pathOf(at, field), value);
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
