/** SubscribeService.ReadEvents over the engine. */
import { create, fromBinary } from "@bufbuild/protobuf";
import {
  EventBatchSchema,
  type ReadEventsRequest,
  type ReadEventsResponse,
  ReadEventsResponseSchema,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { narrow, parseFilter } from "../delivery/filter.ts";
import { type EventsRequest, readEvents } from "../delivery/read-events.ts";
import { checkNamespace, checkPlace } from "../validate.ts";
import type { Rights } from "./auth/rights.ts";
import { parsePageSize } from "./page-size.ts";
import type { ServiceContext } from "./service-context.ts";

/**
 * Answers ReadEvents.
 *
 * @throws RefusedError that says what is wrong with the request
 */
export async function readEventsPage(
  context: ServiceContext,
  request: ReadEventsRequest,
  rights: Rights,
): Promise<ReadEventsResponse> {
  const { items, nextSeq, end } = await readEvents(context, parseRequest(request, rights));
  // Decoded for binary clients too: a page is small, and read once.
  const { events } = fromBinary(EventBatchSchema, Buffer.concat(items));
  return create(ReadEventsResponseSchema, { events, nextSeq: BigInt(nextSeq), end });
}

/** @throws RefusedError with the field at fault; permission */
function parseRequest(request: ReadEventsRequest, rights: Rights): EventsRequest {
  const namespace = checkNamespace("namespace", request.namespace);
  const filter = parseFilter("filter", request.filter);
  return {
    namespace,
    filter: narrow("filter", filter, rights.within("read", namespace)),
    direction: request.backward ? "backward" : "forward",
    seq: checkPlace("seq", request.seq),
    maxEvents: parsePageSize(request.pageSize),
  };
}
