/**
 * Reads grants as they stand in a token's claim `runlog` and in the access file:
 * `[{"namespace": "default", "ancestor": {"run_id": "r1", "start_seq": 7}, "permissions": ["read"]}]`.
 *
 * Invariant: what is not understood grants nothing. A key that is not known may be a
 * condition of a later version, so a grant with one is a mistake too.
 */
import { maxGrants } from "../../limits.ts";
import { RefusedError } from "../../refusal.ts";
import type { Subtree } from "../../subtree.ts";
import { checkNamespace, checkRunId } from "../../validate.ts";
import { everyNamespace, type Grant, type Permission, permissions } from "./rights.ts";

/** Something in JSON is not as it must be; the message names the place. */
export class MistakeError extends Error {
  constructor(at: string, problem: string) {
    super(`${at}: ${problem}`);
    this.name = "MistakeError";
  }
}

/**
 * Reads grants.
 *
 * @param at their place, for messages
 * @throws MistakeError
 */
export function parseGrants(at: string, value: unknown): readonly Grant[] {
  const grants = parseList(at, value);
  if (grants.length > maxGrants) throw new MistakeError(at, `has more than ${maxGrants} grants`);
  return grants.map((grant, index) => parseGrant(`${at}[${index}]`, grant));
}

function parseGrant(at: string, value: unknown): Grant {
  const {
    namespace,
    ancestor,
    permissions: named,
  } = parseObject(at, value, ["namespace", "ancestor", "permissions"]);
  const list = parseList(`${at}.permissions`, named);
  return {
    namespace: parseNamespace(`${at}.namespace`, namespace),
    subtree: ancestor === undefined ? undefined : parseSubtree(`${at}.ancestor`, ancestor),
    permissions: [
      ...new Set(list.map((one, i) => parsePermission(`${at}.permissions[${i}]`, one))),
    ],
  };
}

function parseNamespace(at: string, value: unknown): string {
  const name = parseText(at, value);
  return name === everyNamespace ? name : checked(at, () => checkNamespace(at, name));
}

function parseSubtree(at: string, value: unknown): Subtree {
  const { run_id: runId, start_seq: startSeq } = parseObject(at, value, ["run_id", "start_seq"]);
  const id = parseText(`${at}.run_id`, runId);
  checked(`${at}.run_id`, () => checkRunId(`${at}.run_id`, id));
  const isSeq = typeof startSeq === "number" && Number.isSafeInteger(startSeq) && startSeq > 0;
  if (!isSeq) throw new MistakeError(`${at}.start_seq`, "must be the start_seq of the run");
  return { runId: id, startSeq };
}

function parsePermission(at: string, value: unknown): Permission {
  const permission = permissions.find((one) => one === value);
  if (permission !== undefined) return permission;
  throw new MistakeError(at, `must be one of ${permissions.join(", ")}`);
}

function checked<T>(at: string, check: () => T): T {
  try {
    return check();
  } catch (error) {
    if (!(error instanceof RefusedError) || error.refusal.reason !== "invalid_field") throw error;
    throw new MistakeError(at, error.refusal.problem);
  }
}

/**
 * Reads an object with these keys and no others.
 *
 * @throws MistakeError
 */
export function parseObject<Key extends string>(
  at: string,
  value: unknown,
  keys: readonly Key[],
): Readonly<Partial<Record<Key, unknown>>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new MistakeError(at, "must be an object");
  }
  const unknown = Object.keys(value).find((key) => !keys.some((one) => one === key));
  if (unknown !== undefined) {
    throw new MistakeError(at, `has the unknown key ${JSON.stringify(unknown.slice(0, 64))}`);
  }
  return value as Partial<Record<Key, unknown>>;
}

/**
 * Reads a list; one that is missing is a mistake.
 *
 * @throws MistakeError
 */
export function parseList(at: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw new MistakeError(at, value === undefined ? "is missing" : "must be a list");
}

/**
 * Reads a text that is not empty.
 *
 * @throws MistakeError
 */
export function parseText(at: string, value: unknown): string {
  if (typeof value === "string" && value !== "") return value;
  throw new MistakeError(at, value === undefined ? "is missing" : "must be a text, not empty");
}
