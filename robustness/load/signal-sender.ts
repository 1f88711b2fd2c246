/**
 * Sends signals to whichever runs take them, repeats each whose fate is open until it is
 * known, some that are known, and tries some ids for another event; asks a run to stop now
 * and then.
 */
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import type { Random } from "../random.ts";
import { backoffMs, noteRefusal, pause, type Stage, withChannel } from "./actor.ts";
import { CallFailure } from "./channel.ts";
import { crcOf, signalEvent } from "./event-bytes.ts";

/** What a sender does. */
export interface SignalSenderOptions {
  readonly name: string;
  readonly random: Random;
  /** Runs that take signals now. */
  readonly reachable: ReadonlySet<string>;
}

const paceMs = { min: 40, max: 250 };
/** Often too short for the answer. */
const deadlineMs = { min: 30, max: 3_000 };
/** One choice in so many. */
const oneIn = { repeat: 4, conflict: 8, cancel: 50 };
/** Reasons after which the same signal is sent again. */
const passing = new Set(["", "JOURNAL_UNAVAILABLE", "DRAINING", "OVERLOADED", "QUOTA"]);

/** Sends until it has to close. */
export async function sendSignals(stage: Stage, options: SignalSenderOptions): Promise<void> {
  const { name, random, reachable } = options;
  for (let count = 1; !stage.closing.aborted; count++) {
    await pause(random.between(paceMs.min, paceMs.max), stage.closing);
    const runs = [...reachable];
    if (runs.length === 0) continue;
    const run = random.pick(runs);
    if (random.between(1, oneIn.cancel) === 1) await cancel(stage, options, run);
    // Names its sender, so that the checker knows whose it is.
    const id = `${name}-${count}`;
    if (!(await signal(stage, options, run, id, 0))) continue;
    if (random.between(1, oneIn.repeat) === 1) await signal(stage, options, run, id, 0);
    if (random.between(1, oneIn.conflict) === 1) await signal(stage, options, run, id, 1);
  }
}

/** Sends one until it is known what became of it. @returns whether it is durable */
async function signal(
  stage: Stage,
  { name: by, random }: SignalSenderOptions,
  run: string,
  id: string,
  variant: number,
): Promise<boolean> {
  const { history, ending } = stage;
  const event = signalEvent(run, id, variant);
  const crc = crcOf(event);
  while (!ending.aborted) {
    try {
      const answer = await withChannel(stage, random, (channel, node) => {
        history.append({ t: "signalling", run, by, node, id, crc });
        const request = { runId: run, signalId: id, event };
        const timeoutMs = random.between(deadlineMs.min, deadlineMs.max);
        return channel.unary(RunService.method.signalRun, request, timeoutMs);
      });
      const { seq, signalSeq } = answer;
      history.append({
        t: "signalled",
        run,
        by,
        id,
        crc,
        seq: Number(seq),
        signalSeq: Number(signalSeq),
      });
      return true;
    } catch (error) {
      if (!(error instanceof CallFailure)) throw error;
      if (!passing.has(noteRefusal(stage, by, error, run))) return false;
      await pause(random.between(backoffMs.min, backoffMs.max), ending);
    }
  }
  return false;
}

async function cancel(
  stage: Stage,
  { name: by, random }: SignalSenderOptions,
  run: string,
): Promise<void> {
  const { history } = stage;
  try {
    await withChannel(stage, random, async (channel) => {
      history.append({ t: "cancelling", run, by });
      const request = { runId: run, reason: "changed my mind" };
      const { runCount } = await channel.unary(
        RunService.method.cancelRun,
        request,
        deadlineMs.max,
      );
      // A run that had ended, or was LOST, was not asked.
      if (runCount > 0) history.append({ t: "cancelled", run, by });
    });
  } catch (error) {
    if (!(error instanceof CallFailure)) throw error;
    noteRefusal(stage, by, error, run);
  }
}
