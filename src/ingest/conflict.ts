/**
 * Checks events that are sent again: an event under a used run_seq is skipped if it is
 * the durable one, and refused if it is another.
 */
import { equals, fromBinary } from "@bufbuild/protobuf";
import { EventSchema } from "../../gen/runlog/v1/event_pb.js";
import { readRunFrom } from "../journal/records.ts";
import type { Db } from "../journal/schema.ts";
import { eventsIn } from "../wire/event-batch.ts";
import type { CheckedEvent } from "./operation.ts";
import type { StagedRun } from "./staged-run.ts";

/**
 * run_seq of the first event that differs from the one that the run holds under
 * the same run_seq, durable or added by this group; undefined where none does.
 */
export async function firstConflict(
  tx: Db,
  staged: StagedRun,
  firstRunSeq: number,
  events: readonly CheckedEvent[],
): Promise<number | undefined> {
  let index = 0;
  while (index < events.length && firstRunSeq + index <= staged.durableRunSeq) {
    const runSeq = firstRunSeq + index;
    const [record] = await readRunFrom(tx, staged.row.namespace_id, staged.row, runSeq, 1);
    if (record === undefined) throw new Error(`run_seq ${runSeq} is missing in the journal`);
    for (const durable of eventsIn(record.data, runSeq - record.first_run_seq)) {
      if (index === events.length) break;
      if (!isSameEvent(durable, events[index]!.bytes)) return firstRunSeq + index;
      index++;
    }
  }
  for (; index < events.length; index++) {
    const added = staged.added[firstRunSeq + index - staged.durableRunSeq - 1];
    if (added === undefined || !isSameEvent(added.bytes, events[index]!.bytes)) {
      return firstRunSeq + index;
    }
  }
  return undefined;
}

/** Equal bytes, or equal messages: a client may order a map anew each time it encodes it. */
function isSameEvent(durable: Uint8Array, sent: Uint8Array): boolean {
  if (Buffer.compare(durable, sent) === 0) return true;
  return equals(EventSchema, fromBinary(EventSchema, durable), fromBinary(EventSchema, sent));
}
