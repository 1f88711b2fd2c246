/** Lists of runs. */
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { createClient, type Transport } from "@connectrpc/connect";
import { RunService, RunState } from "../../../gen/runlog/v1/run_pb.js";
import { toNumber } from "../uint64.ts";
import { type UnaryOptions, untilAnswered } from "../unary.ts";
import { infoOf, type RunInfo, type RunStateName } from "./run-info.ts";

/** Which runs to list: all conditions hold that are given. */
export interface RunFilter {
  /** Only direct children of this run. */
  readonly parent?: string | undefined;
  /** Only descendants of this run, at any depth. */
  readonly family?: string | undefined;
  readonly conversation?: string | undefined;
  readonly agent?: string | undefined;
  /** Only runs whose id begins with this. */
  readonly idPrefix?: string | undefined;
  /** Only runs in one of these states. */
  readonly states?: readonly RunStateName[] | undefined;
  /** Only runs that have all these labels. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** Only runs created at this time or later. */
  readonly createdFrom?: Date | undefined;
  /** Only runs created before this time. */
  readonly createdBefore?: Date | undefined;
  /** Only runs with signals whose handling is not recorded. */
  readonly hasPendingSignals?: boolean | undefined;
  /** Runs that are fetched at a time: 100 by default, 1,000 at most. */
  readonly pageSize?: number | undefined;
}

/**
 * Runs, newest first. Each loop asks the server anew, a page at a time, as far as it goes, and
 * throws RunlogError where the server refuses, or none answers for a minute.
 */
export class RunList implements AsyncIterable<RunInfo> {
  readonly #transport: Transport;
  readonly #namespace: string;
  readonly #filter: RunFilter;
  readonly #options: UnaryOptions;
  #asOfSeq: number | undefined;

  constructor(transport: Transport, namespace: string, filter: RunFilter, options: UnaryOptions) {
    this.#transport = transport;
    this.#namespace = namespace;
    this.#filter = filter;
    this.#options = options;
  }

  /**
   * The list is as of this seq or later: following after it misses nothing. Undefined before the
   * first run has come.
   */
  get asOfSeq(): number | undefined {
    return this.#asOfSeq;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<RunInfo, void, undefined> {
    const { listRuns } = createClient(RunService, this.#transport);
    const request = requestOf(this.#namespace, this.#filter);
    this.#asOfSeq = undefined;
    let pageToken = "";
    do {
      const { runs, nextPageToken, asOfSeq } = await untilAnswered(
        this.#transport,
        (options) => listRuns({ ...request, pageToken }, options),
        this.#options,
      );
      this.#asOfSeq ??= toNumber(asOfSeq, "as_of_seq");
      for (const run of runs) yield infoOf(run);
      pageToken = nextPageToken;
    } while (pageToken !== "");
  }

  /** All of them at once. */
  async toArray(): Promise<RunInfo[]> {
    const runs: RunInfo[] = [];
    for await (const run of this) runs.push(run);
    return runs;
  }
}

function requestOf(namespace: string, filter: RunFilter) {
  const { states = [], createdFrom, createdBefore } = filter;
  return {
    namespace,
    parentRunId: filter.parent ?? "",
    ancestorRunId: filter.family ?? "",
    conversationId: filter.conversation ?? "",
    agentId: filter.agent ?? "",
    runIdPrefix: filter.idPrefix ?? "",
    states: states.map((state) => RunState[state]),
    labels: { ...filter.labels },
    hasPendingSignals: filter.hasPendingSignals ?? false,
    pageSize: filter.pageSize ?? 0,
    ...(createdFrom !== undefined && { createdFrom: timestampFromDate(createdFrom) }),
    ...(createdBefore !== undefined && { createdBefore: timestampFromDate(createdBefore) }),
  };
}
