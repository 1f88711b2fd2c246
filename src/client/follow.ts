/**
 * Reading a journal from a cursor, for as long as it takes. The server is exact, so nothing is
 * compared or thrown away: what this yields is each matching record once, in seq order.
 */
import { createClient, type Transport } from "@connectrpc/connect";
import { type SubscribeResponse, SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { type CallReader, type FollowOptions, followCalls } from "./follow-calls.ts";
import { type FollowItem, type FollowRequest, Position } from "./follow-position.ts";

/**
 * Follows the records that match, across any number of calls and servers.
 * Ends where the stop policy does. Throws RunlogError where trying again
 * cannot help (CURSOR_TRIMMED, JOURNAL_CHANGED, RUN_ID_LIMIT, …), and what
 * protobuf-es throws where the request is no valid message.
 *
 * To stop early, abort the signal: a `return()` from outside would wait for
 * the next frame.
 */
export async function* follow(
  transport: Transport,
  request: FollowRequest,
  options: FollowOptions = {},
): AsyncGenerator<FollowItem, void, undefined> {
  const client = createClient(SubscribeService, transport);
  const position = new Position(request);
  let isDone = false;
  const reader: CallReader<SubscribeResponse, FollowItem> = {
    silentMs: position.silentMs,
    get isDone() {
      return isDone;
    },
    open: ({ signal }) => client.subscribe(position.toRequest(), { signal, timeoutMs: 0 }),
    take({ frame }) {
      const { subscribed: resumed } = position;
      const item = position.advance(frame);
      if (frame.case !== "subscribed") return { item, goAway: frame.case === "goAway" };
      return { following: { journalId: frame.value.journalId, resumed } };
    },
    close(endedByServer) {
      isDone = position.isDone(endedByServer);
      return [];
    },
  };
  yield* followCalls(transport, reader, options);
}
