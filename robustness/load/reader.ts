/** Reads the whole journal in the end: by Subscribe, and by pages in both directions. */
import {
  StopPolicy,
  type SubscribeResponse,
  SubscribeService,
} from "../../gen/runlog/v1/subscribe_pb.js";
import type { SeenRecord } from "../history/entry.ts";
import { Channel } from "./channel.ts";
import { seen } from "./seen.ts";

const all = { scope: { case: "all" as const, value: {} } };
const timeoutMs = 60_000;
const pageSize = 1000;

/** Everything, from the beginning to what is durable now. @throws CallFailure */
export async function replay(node: string): Promise<SeenRecord[]> {
  const channel = new Channel(node);
  try {
    const request = {
      filter: all,
      start: { case: "afterSeq" as const, value: 0n },
      stop: StopPolicy.CAUGHT_UP,
    };
    const records: SeenRecord[] = [];
    const call = channel.serverStream(SubscribeService.method.subscribe, request, timeoutMs);
    for await (const { frame } of call as AsyncIterable<SubscribeResponse>) {
      if (frame.case === "events") records.push(...frame.value.events.map(seen));
    }
    return records;
  } finally {
    channel.close();
  }
}

/** The same by ReadEvents. @throws CallFailure */
export async function readPages(node: string, backward: boolean): Promise<SeenRecord[]> {
  const channel = new Channel(node);
  try {
    const pages: SeenRecord[][] = [];
    for (let seq = 0n; ; ) {
      const request = { filter: all, seq, backward, pageSize };
      const page = await channel.unary(SubscribeService.method.readEvents, request, timeoutMs);
      pages.push(page.events.map(seen));
      if (page.end) break;
      seq = page.nextSeq;
    }
    const records = pages.flat();
    return backward ? records.toSorted((a, b) => a.seq - b.seq) : records;
  } finally {
    channel.close();
  }
}
