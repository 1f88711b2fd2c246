/**
 * Walks a message's bytes before any of them is decoded: whether they are
 * well-formed, and whether there is no more in them than a message may hold.
 * It allocates nothing but counters, one set for each message inside, so the
 * work is in proportion to the bytes, and decoding afterwards is bounded.
 *
 * Field numbers, types and names come from the descriptors. Stricter than the
 * format where no encoder makes use of it: a known field comes in the wire type
 * of its declaration, and groups are refused.
 *
 * Layout: https://protobuf.dev/programming-guides/encoding/
 */
import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import { maxListItems, maxMessageItems, maxPlainFields, maxScannedEvents } from "../limits.ts";
import { FieldReader } from "./field-reader.ts";

/** What is wrong with a message, and where. */
export class MalformedMessage extends Error {
  /** Path of the field, as in "create.labels"; empty for the message as a whole. */
  readonly field: string;
  /** The limit, where there is more of something than there may be. */
  readonly limit: number | undefined;
  /** What is wrong, without the field. */
  readonly problem: string;

  constructor(field: string, problem: string, limit?: number) {
    super(field === "" ? problem : `${field}: ${problem}`);
    this.name = "MalformedMessage";
    this.field = field;
    this.problem = problem;
    this.limit = limit;
  }
}

/** Field numbers are of 29 bits. */
const maxTag = 0xffff_ffff;

/** How a field is encoded, and how often it may come. */
interface FieldPlan {
  readonly name: string;
  readonly wire: WireType;
  readonly isText: boolean;
  /** Items that may come of a list; undefined where it is none. */
  readonly maxItems: number | undefined;
  /** Place of its counter: of items for a list, of the message's own for a message. */
  readonly index: number;
  /** What is in it, where it is a message. */
  readonly inside: (() => MessagePlan) | undefined;
}

interface MessagePlan {
  readonly fields: ReadonlyMap<number, FieldPlan>;
  readonly counters: number;
}

/**
 * What came of one message so far. A message that comes in several parts, which
 * the format merges, has one.
 */
class Counts {
  plainFields = 0;
  /** Items of lists. */
  readonly items: Uint32Array;
  /** Of messages inside that are not in lists. */
  readonly inside: (Counts | undefined)[] = [];

  constructor(plan: MessagePlan) {
    this.items = new Uint32Array(plan.counters);
  }
}

const plans = new WeakMap<DescMessage, MessagePlan>();

function planOf(desc: DescMessage): MessagePlan {
  let plan = plans.get(desc);
  if (plan === undefined) {
    const fields = desc.fields.map((field, index) => [field.number, planField(field, index)]);
    plan = { fields: new Map(fields as [number, FieldPlan][]), counters: fields.length };
    plans.set(desc, plan);
  }
  return plan;
}

function planField(field: DescField, index: number): FieldPlan {
  const { name } = field;
  const isList = field.fieldKind === "list" || field.fieldKind === "map";
  // Events come as bytes here, of which nothing but their place is kept.
  const most = field.scalar === ScalarType.BYTES ? maxScannedEvents : maxListItems;
  const base = { name, maxItems: isList ? most : undefined, index };
  if (field.fieldKind === "map") {
    const entry = planEntry(field);
    return { ...base, wire: WireType.LengthDelimited, isText: false, inside: () => entry };
  }
  if (field.message !== undefined) {
    const { message } = field;
    return {
      ...base,
      wire: WireType.LengthDelimited,
      isText: false,
      inside: () => planOf(message),
    };
  }
  return { ...base, ...scalar(field.scalar ?? ScalarType.INT32), inside: undefined };
}

/** A map is a list of messages with a key and a value. */
function planEntry(field: DescField & { fieldKind: "map" }): MessagePlan {
  const key: FieldPlan = {
    name: "key",
    maxItems: undefined,
    index: 0,
    ...scalar(field.mapKey),
    inside: undefined,
  };
  const { message } = field;
  const value: FieldPlan = {
    name: "value",
    maxItems: undefined,
    index: 1,
    ...(message === undefined
      ? { ...scalar(field.scalar ?? ScalarType.INT32), inside: undefined }
      : { wire: WireType.LengthDelimited, isText: false, inside: () => planOf(message) }),
  };
  const fields = new Map([
    [1, key],
    [2, value],
  ]);
  return { fields, counters: fields.size };
}

function scalar(type: ScalarType): Pick<FieldPlan, "wire" | "isText"> {
  switch (type) {
    case ScalarType.STRING:
      return { wire: WireType.LengthDelimited, isText: true };
    case ScalarType.BYTES:
      return { wire: WireType.LengthDelimited, isText: false };
    case ScalarType.DOUBLE:
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      return { wire: WireType.Bit64, isText: false };
    case ScalarType.FLOAT:
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
      return { wire: WireType.Bit32, isText: false };
    default:
      return { wire: WireType.Varint, isText: false };
  }
}

/**
 * Checks a message's bytes.
 *
 * @param isUtf8 whether bytes are UTF-8: Node has a fast answer that browsers lack
 * @throws MalformedMessage where they are no such message, or hold more than one may
 */
export function scanMessage(
  desc: DescMessage,
  bytes: Uint8Array,
  isUtf8: (bytes: Uint8Array) => boolean,
): void {
  const plan = planOf(desc);
  new Scan(bytes, isUtf8).message(plan, bytes.length, new Counts(plan));
}

class Scan {
  readonly #reader: FieldReader;
  readonly #isUtf8: (bytes: Uint8Array) => boolean;
  /** Items of lists so far, wherever they stand. */
  #items = 0;
  /** Where the scan is, as names and places in lists. */
  readonly #path: (string | number)[] = [];

  constructor(bytes: Uint8Array, isUtf8: (bytes: Uint8Array) => boolean) {
    this.#reader = new FieldReader(bytes);
    this.#isUtf8 = isUtf8;
  }

  /** Passes over a message that ends at `end`. */
  message(plan: MessagePlan, end: number, counts: Counts): void {
    while (this.#reader.at < end) {
      const tag = this.#varint(end);
      const wire = tag & 7;
      const number = Math.floor(tag / 8);
      if (tag > maxTag || number === 0) throw this.#malformed("contains an invalid tag");
      const field = plan.fields.get(number);
      if (field === undefined) {
        this.#countPlain(counts);
        this.#skip(wire, end);
        continue;
      }
      this.#path.push(field.name);
      if (field.maxItems === undefined) this.#single(field, wire, end, counts);
      else this.#list(field, field.maxItems, wire, end, counts);
      this.#path.pop();
    }
  }

  #single(field: FieldPlan, wire: number, end: number, counts: Counts): void {
    this.#countPlain(counts);
    if (wire !== field.wire) throw this.#malformed("has the wrong wire type");
    if (field.inside === undefined) {
      this.#value(field, wire, end);
      return;
    }
    const plan = field.inside();
    const inside = counts.inside[field.index] ?? new Counts(plan);
    // A part that comes later goes on counting.
    counts.inside[field.index] = inside;
    this.message(plan, this.#endOfField(end), inside);
  }

  #list(field: FieldPlan, maxItems: number, wire: number, end: number, counts: Counts): void {
    if (wire === WireType.LengthDelimited && field.wire !== WireType.LengthDelimited) {
      const endOfItems = this.#endOfField(end);
      while (this.#reader.at < endOfItems) {
        this.#countItem(field, maxItems, counts);
        this.#skip(field.wire, endOfItems);
      }
      return;
    }
    if (wire !== field.wire) throw this.#malformed("has the wrong wire type");
    const item = this.#countItem(field, maxItems, counts);
    this.#path.push(item);
    if (field.inside === undefined) this.#value(field, wire, end);
    else {
      const plan = field.inside();
      this.message(plan, this.#endOfField(end), new Counts(plan));
    }
    this.#path.pop();
  }

  #value(field: FieldPlan, wire: number, end: number): void {
    if (field.isText) this.#text(end);
    else this.#skip(wire, end);
  }

  /** Passes over a text in UTF-8. */
  #text(end: number): void {
    const endOfText = this.#endOfField(end);
    const { bytes } = this.#reader;
    let at = this.#reader.at;
    while (at < endOfText && bytes[at]! < 0x80) at++;
    // Most is ASCII, and short.
    if (at < endOfText && !this.#isUtf8(bytes.subarray(at, endOfText))) {
      throw this.#malformed("is not UTF-8");
    }
    this.#reader.at = endOfText;
  }

  #skip(wire: number, end: number): void {
    switch (wire) {
      case WireType.Varint:
        this.#varint(end);
        return;
      case WireType.Bit64:
        this.#advance(8, end);
        return;
      case WireType.LengthDelimited:
        this.#reader.at = this.#endOfField(end);
        return;
      case WireType.Bit32:
        this.#advance(4, end);
        return;
      default:
        throw this.#malformed("contains a group or an invalid wire type");
    }
  }

  #advance(bytes: number, end: number): void {
    this.#reader.at += bytes;
    if (this.#reader.at > end) throw this.#malformed("ends too early");
  }

  /** Reads a length; where the field ends. */
  #endOfField(end: number): number {
    const length = this.#varint(end);
    if (length > end - this.#reader.at) throw this.#malformed("ends too early");
    return this.#reader.at + length;
  }

  /** Reads a varint; beyond 2^53 it is not exact, but no smaller. */
  #varint(end: number): number {
    const value = this.#reader.varint(end);
    if (value !== undefined) return value;
    const isCut = this.#reader.at >= end;
    throw this.#malformed(isCut ? "ends too early" : "contains a number that is too long");
  }

  #countPlain(counts: Counts): void {
    if (++counts.plainFields <= maxPlainFields) return;
    const problem = `has more than ${maxPlainFields} fields besides lists, unknown ones included`;
    throw this.#malformed(problem, maxPlainFields);
  }

  /** Counts an item of a list; its place. */
  #countItem(field: FieldPlan, maxItems: number, counts: Counts): number {
    const item = counts.items[field.index]!;
    if (item === maxItems) throw this.#malformed(`has more than ${maxItems} items`, maxItems);
    counts.items[field.index] = item + 1;
    if (maxItems === maxListItems && ++this.#items > maxMessageItems) {
      const problem = `comes after ${maxMessageItems} items of lists, the most of one message`;
      throw this.#malformed(problem, maxMessageItems);
    }
    return item;
  }

  #malformed(problem: string, limit?: number): MalformedMessage {
    let field = "";
    for (const part of this.#path) {
      if (typeof part === "number") field += `[${part}]`;
      else field += field === "" ? part : `.${part}`;
    }
    return new MalformedMessage(field, problem, limit);
  }
}
