/** What was thrown, as a run records it. */
import { maxSuppressed } from "../../limits.ts";
import { RunlogError } from "../errors.ts";
import type { Failure } from "./run-info.ts";

/** A failure that is given by hand. */
export type FailureInit = Partial<Failure> & Pick<Failure, "message">;

/** Characters of a failure's code, which stands for a class of errors. */
const maxCodeLength = 128;
/** Characters of a message: enough for people, and far below what a server takes. */
const maxMessageLength = 4_096;
/** Characters of a detail: some stack traces. */
const maxDetailLength = 16_384;
/** Characters of the messages and details of what is suppressed, of which there are many at most. */
const maxSuppressedLength = 512;
/** Errors of a chain of causes whose stacks are recorded. */
const maxCauses = 5;

/** What is recorded of a run that failed. */
export interface Failures {
  readonly failure: Failure;
  readonly suppressed: readonly Failure[];
}

/**
 * The failures in what was thrown: that of a block first, then what its cleanup threw, which a
 * SuppressedError holds (`using`, `await using`).
 *
 * @param more that was thrown later
 */
export function failuresOf(thrown: unknown, more: readonly unknown[] = []): Failures {
  const [primary, ...later] = [...inOrder(thrown), ...more.flatMap(inOrder)];
  return {
    failure: failureOf(primary, maxMessageLength, maxDetailLength),
    suppressed: suppressedOf(later),
  };
}

/** Failures that are not the first. */
export function suppressedOf(thrown: readonly unknown[]): readonly Failure[] {
  return thrown
    .slice(0, maxSuppressed)
    .map((one) => failureOf(one, maxSuppressedLength, maxSuppressedLength));
}

/** The least that is worth recording, where the rest is larger than a server takes. */
export function shortened({ failure: { code, message } }: Failures): Failures {
  const short = message.slice(0, maxSuppressedLength).toWellFormed();
  return { failure: { code, message: short, detail: "" }, suppressed: [] };
}

/** What was thrown, oldest first. */
function inOrder(thrown: unknown): unknown[] {
  const later: unknown[] = [];
  let at = thrown;
  // By its name: not every platform has the class.
  while (at instanceof Error && at.name === "SuppressedError" && "suppressed" in at) {
    later.unshift((at as SuppressedError).error);
    at = at.suppressed;
  }
  return [at, ...later];
}

function failureOf(thrown: unknown, messageLength: number, detailLength: number): Failure {
  const { code = "", message, detail = "" } = partsOf(thrown);
  return {
    code: textOf(code, maxCodeLength),
    message: textOf(message, messageLength),
    detail: textOf(detail, detailLength),
  };
}

function partsOf(thrown: unknown): FailureInit {
  if (thrown instanceof Error) {
    return { code: codeOf(thrown), message: thrown.message, detail: stacksOf(thrown) };
  }
  if (typeof thrown === "object" && thrown !== null && "message" in thrown) {
    return thrown as FailureInit;
  }
  return { message: safely(() => String(thrown)) };
}

function codeOf(error: Error): string {
  if (error instanceof RunlogError) return error.reason;
  return "code" in error && typeof error.code === "string" ? error.code : error.name;
}

function stacksOf(error: Error): string {
  const stacks: string[] = [];
  for (let at: unknown = error; at instanceof Error && stacks.length < maxCauses; at = at.cause) {
    stacks.push(at.stack ?? String(at));
  }
  return stacks.join("\ncaused by ");
}

/** What a server takes as text: without halves of surrogate pairs, and without NUL. */
function textOf(value: unknown, maxLength: number): string {
  const text = safely(() => String(value));
  return text.slice(0, maxLength).toWellFormed().replaceAll("\0", "\ufffd");
}

function safely(write: () => string): string {
  try {
    return write();
  } catch {
    return "something that cannot be written as text";
  }
}
