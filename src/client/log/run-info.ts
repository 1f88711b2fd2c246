/** Runs as plain values: no messages, no enums, no bigint. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, timestampDate } from "@bufbuild/protobuf/wkt";
import {
  type Failure as FailureMessage,
  type ForkPoint,
  type Run as RunMessage,
  type RunResult,
  type RunSpec as RunSpecMessage,
  type RunSpecSchema,
  RunState,
  type Wait,
} from "../../../gen/runlog/v1/run_pb.js";
import { toNumber } from "../uint64.ts";
import { Payload } from "./payload.ts";

/** Where a run stands. WAITING: for input. LOST: without a producer, until somebody opens it again. */
export type RunStateName = Exclude<keyof typeof RunState, "UNSPECIFIED">;

/** How a producer can end its run. */
export type EndStateName = Exclude<RunStateName, "RUNNING" | "WAITING" | "LOST">;

/** Describes a new run. Everything may be left out. */
export interface RunSpec {
  /** Which agent runs. */
  readonly agent?: string | undefined;
  /** Version of the agent, its prompt or its policy. */
  readonly agentVersion?: string | undefined;
  /** A name for people. */
  readonly name?: string | undefined;
  /** Groups runs across families, for example all turns of one chat. */
  readonly conversation?: string | undefined;
  /** At most 32, with keys of up to 63 bytes and values of up to 256. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** Milliseconds that the run may lack a connected producer before it is LOST. Default: the server's. */
  readonly leaseMs?: number | undefined;
  /** The run takes no signals. Default: it does. */
  readonly refusesSignals?: boolean | undefined;
}

/** The description of a run, with what was left out as undefined. */
export interface RunDescription {
  readonly parent: string | undefined;
  readonly agent: string | undefined;
  readonly agentVersion: string | undefined;
  readonly name: string | undefined;
  readonly conversation: string | undefined;
  readonly labels: Readonly<Record<string, string>>;
}

/** What went wrong. */
export interface Failure {
  /** Stable and machine-readable, as the producer chose it. */
  readonly code: string;
  readonly message: string;
  /** For example a stack trace; perhaps empty. */
  readonly detail: string;
}

/** What a run waits for. */
export interface Waiting {
  /** As the producer chose it: "approval", "input". */
  readonly code: string;
  readonly question: Payload | undefined;
  readonly deadline: Date | undefined;
}

/** Where a fork begins: after this event of that run. */
export interface Fork {
  readonly runId: string;
  readonly runSeq: number;
}

/** A run as the server knows it. */
export interface RunInfo extends RunDescription {
  readonly runId: string;
  readonly namespace: string;
  readonly state: RunStateName;
  /** The root of its family; the run itself for a root. */
  readonly rootRunId: string;
  /** 0 for a root. */
  readonly depth: number;
  /** Of the last durable event; 0 where there is none. */
  readonly lastRunSeq: number;
  /** Of the run's first record, in the journal. */
  readonly startSeq: number;
  /** Of its newest record. */
  readonly lastSeq: number;
  readonly createTime: Date;
  readonly endTime: Date | undefined;
  /** What it ended with, if anything. */
  readonly output: Payload | undefined;
  readonly failure: Failure | undefined;
  readonly suppressed: readonly Failure[];
  readonly waiting: Waiting | undefined;
  readonly fork: Fork | undefined;
  /** Signals whose handling is not recorded. */
  readonly pendingSignals: number;
}

/** The message for a spec. */
export function specOf(
  { agent, agentVersion, name, conversation, labels, leaseMs, refusesSignals }: RunSpec,
  parent: string | undefined,
): MessageInitShape<typeof RunSpecSchema> {
  return {
    parentRunId: parent ?? "",
    agentId: agent ?? "",
    agentVersion: agentVersion ?? "",
    displayName: name ?? "",
    conversationId: conversation ?? "",
    labels: { ...labels },
    ...(leaseMs !== undefined && { lease: durationFromMs(leaseMs) }),
    refusesSignals: refusesSignals ?? false,
  };
}

/** The plain description of a run. */
export function descriptionOf(spec: RunSpecMessage | undefined): RunDescription {
  return {
    parent: spec?.parentRunId || undefined,
    agent: spec?.agentId || undefined,
    agentVersion: spec?.agentVersion || undefined,
    name: spec?.displayName || undefined,
    conversation: spec?.conversationId || undefined,
    labels: spec?.labels ?? {},
  };
}

/** The state's name; RUNNING for one of a newer server. */
export function stateNameOf(state: RunState): RunStateName {
  const names: Readonly<Record<number, string | undefined>> = RunState;
  const name = names[state] as keyof typeof RunState | undefined;
  return name === undefined || name === "UNSPECIFIED" ? "RUNNING" : name;
}

/** The plain form of a failure. */
export function failureFrom({ code, message, detail }: FailureMessage): Failure {
  return { code, message, detail };
}

/** What a run ended with. */
export function outputOf(result: RunResult | undefined): Payload {
  const { output = new Uint8Array(), outputContentType = "" } = result ?? {};
  return new Payload(output, outputContentType);
}

/** The plain form of a wait. */
function waitingFrom({ code, question, deadline }: Wait): Waiting {
  return {
    code,
    question: question && new Payload(question.data, question.contentType),
    deadline: deadline && timestampDate(deadline),
  };
}

/** The plain form of a fork point. */
export function forkFrom({ runId, runSeq }: ForkPoint): Fork {
  return { runId, runSeq: toNumber(runSeq, "run_seq") };
}

/** The plain form of a run. */
export function infoOf(run: RunMessage): RunInfo {
  const { result, waiting, fork, createTime, endTime } = run;
  return {
    runId: run.runId,
    namespace: run.namespace,
    state: stateNameOf(run.state),
    ...descriptionOf(run.spec),
    rootRunId: run.rootRunId,
    depth: run.depth,
    lastRunSeq: toNumber(run.lastRunSeq, "last_run_seq"),
    startSeq: toNumber(run.startSeq, "start_seq"),
    lastSeq: toNumber(run.lastSeq, "last_seq"),
    createTime: createTime === undefined ? new Date(0) : timestampDate(createTime),
    endTime: endTime && timestampDate(endTime),
    output: result && result.output.length > 0 ? outputOf(result) : undefined,
    failure: result?.failure && failureFrom(result.failure),
    suppressed: result?.suppressed.map(failureFrom) ?? [],
    waiting: waiting && waitingFrom(waiting),
    fork: fork && forkFrom(fork),
    pendingSignals: toNumber(run.lastSignalSeq - run.handledSignalSeq, "pending signals"),
  };
}
