/**
 * Turns what comes from outside into messages: the one place that does, over
 * every protocol. The bytes are checked before any of them is decoded, so
 * that a message costs what its bytes are worth; what they do not mean is not
 * kept.
 */
import { isUtf8 } from "node:buffer";
import {
  type DescField,
  type DescMessage,
  fromBinary,
  fromJson,
  fromJsonString,
  type JsonObject,
  type JsonValue,
  type MessageShape,
} from "@bufbuild/protobuf";
import { maxFilterRunIds } from "../limits.ts";
import { invalidField, RefusedError } from "../refusal.ts";
import { MalformedMessage, scanMessage } from "../wire/message-scan.ts";
import { scanJson } from "./json-scan.ts";

/** EventFilter.run_ids.run_ids, in whatever it stands. */
const runIdsPath = "run_ids.run_ids";
/** What a refusal names where no single field is at fault. */
const wholeRequest = "request";
/** Characters of another library's words that are passed on: they may quote the message. */
const maxProblemLength = 200;

/** As Connect has it: what a newer client knows is passed over. */
const jsonOptions = { ignoreUnknownFields: true };

/**
 * Decodes a message in Protobuf's binary encoding.
 *
 * @throws RefusedError with the field at fault
 */
export function parseMessage<Desc extends DescMessage>(
  schema: Desc,
  bytes: Uint8Array,
): MessageShape<Desc> {
  try {
    scanMessage(schema, bytes, isUtf8);
    return fromBinary(schema, bytes, { readUnknownFields: false });
  } catch (error) {
    throw refusalOf("", error);
  }
}

/**
 * Decodes a message in JSON.
 *
 * @throws RefusedError with the field at fault
 */
export function parseJson<Desc extends DescMessage>(
  schema: Desc,
  bytes: Uint8Array,
): MessageShape<Desc> {
  let text: string;
  try {
    scanJson(bytes);
    text = new TextDecoder().decode(bytes);
    return fromJsonString(schema, text, jsonOptions);
  } catch (error) {
    throw refusalOf(error instanceof MalformedMessage ? "" : faultOf(schema, bytes), error);
  }
}

function refusalOf(field: string, error: unknown): RefusedError {
  if (error instanceof MalformedMessage) {
    const { problem, limit } = error;
    // The refusal that names the way out, however many there are.
    if (limit !== undefined && error.field.endsWith(runIdsPath)) {
      return new RefusedError({ reason: "run_id_limit", limit: maxFilterRunIds, got: limit + 1 });
    }
    return invalidField(error.field === "" ? wholeRequest : error.field, problem, limit);
  }
  const problem = error instanceof Error ? error.message : String(error);
  return invalidField(field === "" ? wholeRequest : field, printable(problem));
}

function printable(text: string): string {
  return text.slice(0, maxProblemLength).replace(/[^\x20-\x7e]/g, "?");
}

/** The path of the first field that cannot be decoded; empty where the text is no JSON. */
function faultOf(schema: DescMessage, bytes: Uint8Array): string {
  try {
    return faultIn(schema, JSON.parse(new TextDecoder().decode(bytes)) as JsonValue) ?? "";
  } catch {
    return "";
  }
}

function faultIn(schema: DescMessage, json: JsonValue): string | undefined {
  if (!isObject(json)) return undefined;
  for (const key of Object.keys(json)) {
    const field = schema.fields.find((one) => one.jsonName === key || one.name === key);
    if (field === undefined) continue;
    const value = json[key]!;
    if (isDecoded(schema, { [key]: value })) continue;
    return field.name + (faultInside(schema, field, key, value) ?? "");
  }
  return undefined;
}

/** What follows a field's name on the way to the fault. */
function faultInside(
  schema: DescMessage,
  field: DescField,
  key: string,
  value: JsonValue,
): string | undefined {
  if (field.fieldKind === "list" && Array.isArray(value)) {
    const index = value.findIndex((item) => !isDecoded(schema, { [key]: [item] }));
    if (index < 0) return undefined;
    const inside = field.message && faultIn(field.message, value[index]!);
    return `[${index}]${inside === undefined ? "" : `.${inside}`}`;
  }
  if (field.fieldKind !== "message") return undefined;
  const inside = faultIn(field.message, value);
  return inside === undefined ? undefined : `.${inside}`;
}

function isDecoded(schema: DescMessage, json: JsonValue): boolean {
  try {
    fromJson(schema, json, jsonOptions);
    return true;
  } catch {
    return false;
  }
}

function isObject(json: JsonValue): json is JsonObject {
  return typeof json === "object" && json !== null && !Array.isArray(json);
}
