/**
 * What ingest and exec have in common: a run on a server that takes lines.
 */
import { createClient, type Transport } from "@connectrpc/connect";
import type { Run } from "../../gen/runlog/v1/run_pb.js";
import { RunService, RunState } from "../../gen/runlog/v1/run_pb.js";
import type { ResultInit, RunSender } from "../client/index.ts";
import type { NodeConnection } from "../client/node/index.ts";
import { callServer, connectBy, openRunOnServer } from "./connection.ts";
import { CommandError } from "./failure.ts";
import { LineFeed } from "./feed.ts";
import { type RecordFlags, specOf } from "./flags.ts";
import { notice } from "./output.ts";
import { countText } from "./text.ts";

/** A run that is open and takes lines. */
export interface RecordedRun {
  readonly runId: string;
  /** To the run's server, until it is closed. */
  readonly transport: Transport;
  /** Events that the run had when it was opened. */
  readonly lastRunSeq: number;
  readonly cancelled: AbortSignal;
  readonly feed: LineFeed;
  /** The last of its signals that was handled when it was opened. */
  readonly handledSignalSeq: number;
  /** Its producer; it has signals where the run was opened with them. */
  readonly sender: Pick<RunSender, "emit" | "signals" | "handle" | "wait">;
  /** Aborts with the final error where the run takes nothing more. */
  readonly failed: AbortSignal;
  /** Makes everything durable, ends the run and says so. */
  finish(result: ResultInit): Promise<void>;
  /** Ends the connection. */
  close(): void;
}

/** How to open a run. */
export interface RecordOptions {
  /** Whether a run is fine that has ended already: what it has is not sent again. Default: no. */
  readonly mayHaveEnded?: boolean;
  /** Whether its signals come. Default: no. */
  readonly receiveSignals?: boolean;
}

/**
 * Opens the run that the flags name, and says its id. Throws CommandError, RunlogError.
 */
export async function recordRun(
  flags: RecordFlags,
  displayName: string,
  options: RecordOptions = {},
): Promise<RecordedRun> {
  const connection = connectBy(flags);
  try {
    return await openOver(connection, flags, displayName, options);
  } catch (error) {
    connection.close();
    throw error;
  }
}

async function openOver(
  connection: NodeConnection,
  flags: RecordFlags,
  displayName: string,
  { mayHaveEnded = false, receiveSignals = false }: RecordOptions,
): Promise<RecordedRun> {
  const feed = new LineFeed();
  const failed = new AbortController();
  const sender: RunSender = await openRunOnServer(connection.transport, flags, {
    ...(flags.run === undefined ? {} : { runId: flags.run }),
    spec: specOf(flags, displayName),
    receiveSignals,
    onDrop: feed.onDrop,
    onRunId: (runId) => process.stderr.write(`run ${runId}\n`),
    onFailed: (error) => failed.abort(error),
  });
  const opened = await sender.opened;
  if (flags.run !== undefined && !mayHaveEnded) {
    await refuseEnded(connection, flags, flags.run).catch(async (error: unknown) => {
      await sender.close(0);
      throw error;
    });
  }
  feed.attach(sender, opened.maxEventBytes, flags.spool);
  if (opened.lastRunSeq > 0) {
    notice(`the run has ${countText(opened.lastRunSeq, "event")} already; continuing it`);
  }
  return {
    runId: sender.runId,
    transport: connection.transport,
    lastRunSeq: opened.lastRunSeq,
    handledSignalSeq: opened.handledSignalSeq,
    cancelled: sender.cancelled,
    feed,
    sender,
    failed: failed.signal,
    async finish(result) {
      await feed.drained();
      // What a server does not take that came meanwhile is reported in the run, before its end.
      await sender.flush();
      await feed.drained();
      const { run, durable } = await sender.finish(result);
      process.stderr.write(`${summaryOf(run, durable, feed.dropped)}\n`);
    },
    close() {
      feed.close();
      connection.close();
    },
  };
}

/** What has ended takes nothing: said before a command is run for it. */
async function refuseEnded(
  { transport }: NodeConnection,
  flags: RecordFlags,
  runId: string,
): Promise<void> {
  const client = createClient(RunService, transport);
  const request = { namespace: flags.namespace, runId };
  const { run } = await callServer(flags, (options) => client.getRun(request, options));
  if (run === undefined || run.endTime === undefined) return;
  throw new CommandError(
    `run ${JSON.stringify(runId)} has ended as ${RunState[run.state]} and accepts no more events [RUN_FINISHED]; go on with another --run, or with a fork of this one (\`runlog fork\`)`,
  );
}

function summaryOf(run: Run, durable: number, dropped: number): string {
  const lost = dropped === 0 ? "" : `, ${dropped} not recorded`;
  return `run ${run.runId}: ${countText(durable, "event")} durable${lost}, ${RunState[run.state]}`;
}
