/**
 * A producer without streams: AppendEvents, one window after the other, each with a
 * deadline of its own, at a node of its choice.
 */
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import type { Random } from "../random.ts";
import { backoffMs, noteRefusal, pause, type Stage, withChannel } from "./actor.ts";
import { CallFailure } from "./channel.ts";
import { eventAt } from "./event-bytes.ts";
import { creationOf, type Plan, resultOf, stateName } from "./runs.ts";

const paceMs = { min: 20, max: 80 };
const perWindow = { min: 1, max: 20 };
const deadlineMs = { min: 60, max: 3_000 };
const passing = new Set(["", "JOURNAL_UNAVAILABLE", "DRAINING", "OVERLOADED"]);

/** What a producer does. */
export interface WindowProducerOptions {
  readonly name: string;
  readonly random: Random;
  readonly nextPlan: () => Plan | undefined;
}

/** Produces runs one after the other until there are none, or it has to end. */
export async function produceWindows(stage: Stage, options: WindowProducerOptions): Promise<void> {
  while (!stage.closing.aborted && !stage.ending.aborted) {
    const plan = options.nextPlan();
    if (plan === undefined) return;
    await produceRun(stage, options, plan);
  }
}

/** Opens a run, appends what it consists of, and ends it. */
export async function produceRun(
  stage: Stage,
  { name: by, random }: Pick<WindowProducerOptions, "name" | "random">,
  plan: Plan,
): Promise<void> {
  const { history, ending } = stage;
  const { run } = plan;
  const { state: resultState, output } = resultOf(plan, by);
  const state = stateName(resultState);
  let epoch = 0n;
  let durable = 0;
  let attempt = 0;
  /** The window whose answer is awaited: after a break the same one goes out again. */
  let to = 0;
  while (!ending.aborted) {
    const isOpening = epoch === 0n;
    if (to === durable && !isOpening) {
      to = Math.min(plan.events, durable + random.between(perWindow.min, perWindow.max));
    }
    const events = Array.from({ length: to - durable }, (_, i) =>
      eventAt(run, durable + 1 + i, by),
    );
    const isFinishing = !isOpening && to === plan.events;
    try {
      const answer = await withChannel(stage, random, (channel, node) => {
        if (isOpening) history.append({ t: "opening", run, by, node, attempt: ++attempt });
        if (events.length > 0) history.append({ t: "sent", run, by, from: durable + 1, to });
        if (isFinishing) history.append({ t: "finishing", run, by, lastRunSeq: to, state, output });
        return channel.unary(
          IngestService.method.appendEvents,
          {
            runId: run,
            epoch,
            producerId: by,
            attempt: BigInt(attempt),
            ...(isOpening ? creationOf(plan) : {}),
            firstRunSeq: events.length === 0 ? 0n : BigInt(durable + 1),
            events,
            ...(isFinishing ? { finish: { state: resultState, output: Buffer.from(output) } } : {}),
          },
          random.between(deadlineMs.min, deadlineMs.max),
        );
      });
      durable = Number(answer.lastRunSeq);
      to = Math.max(to, durable);
      if (isOpening) {
        epoch = answer.epoch;
        history.append({
          t: "opened",
          run,
          by,
          attempt,
          epoch: Number(epoch),
          lastRunSeq: durable,
        });
      } else if (events.length > 0) {
        history.append({ t: "acked", run, by, runSeq: durable, seq: 0 });
      }
      if (isFinishing) {
        history.append({ t: "ended", run, by, state, output });
        return;
      }
      await pause(random.between(paceMs.min, paceMs.max), ending);
    } catch (error) {
      if (!(error instanceof CallFailure)) throw error;
      const reason = noteRefusal(stage, by, error, run);
      if (!passing.has(reason)) return;
      // An answer that was lost leaves its events' fate open: sent again with the same epoch.
      await pause(random.between(backoffMs.min, backoffMs.max), ending);
    }
  }
}
