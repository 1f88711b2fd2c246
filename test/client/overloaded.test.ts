/**
 * A server that has no memory to spare, or whose caller's quota is used up for now, asks to be
 * called again later; any other quota is final.
 */
import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { StopPolicy, SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { follow, openRun, RunlogError } from "../../src/client/index.ts";

const retryAfterMs = 40;
const backoff = { baseMs: 1, capMs: 2 };

const overloaded = create(ErrorDetailSchema, {
  reason: Reason.OVERLOADED,
  retryAfter: durationFromMs(retryAfterMs),
});
const quota = create(ErrorDetailSchema, { reason: Reason.QUOTA, limit: 1n });
const usedUp = create(ErrorDetailSchema, { ...quota, retryAfter: durationFromMs(retryAfterMs) });

function refusal(detail: typeof overloaded): ConnectError {
  return new ConnectError("no", Code.ResourceExhausted, undefined, [
    { desc: ErrorDetailSchema, value: detail },
  ]);
}

/** A server that refuses the first call, by a status or for one run, and takes the others. */
function serverThatRefusesOnce(detail: typeof overloaded, how: "call" | "run") {
  let calls = 0;
  return createRouterTransport(({ service }) => {
    service(IngestService, {
      async *ingest(requests) {
        const isFirst = ++calls === 1;
        if (isFirst && how === "call") throw refusal(detail);
        for await (const { frame } of requests) {
          if (frame.case === "open" && isFirst) {
            yield { frame: { case: "rejected", value: { runId: "r", detail } } };
          } else if (frame.case === "open") {
            yield { frame: { case: "opened", value: { runId: "r", epoch: 1n } } };
          } else if (frame.case === "append") {
            yield { frame: { case: "ack", value: { runId: "r", runSeq: 1n, seq: 2n } } };
          }
        }
      },
    });
    service(SubscribeService, {
      async *subscribe() {
        if (++calls === 1) throw refusal(detail);
        yield { frame: { case: "subscribed", value: { journalId: "j" } } };
        yield { frame: { case: "caughtUp", value: { seq: 7n } } };
      },
    });
  });
}

const isQuota = (error: unknown) => error instanceof RunlogError && error.reason === "QUOTA";
/** Half as much again at most: those who were asked at once do not come back at once. */
const isAsAsked = (delayMs: number) => delayMs >= retryAfterMs && delayMs <= 1.5 * retryAfterMs;

const later = [
  ["memory", overloaded],
  ["quota", usedUp],
] as const;

for (const how of ["call", "run"] as const) {
  describe(`a sender whose ${how} is refused for want of memory or quota`, () => {
    for (const [why, detail] of later) {
      it(`tries again after the time that the server asks for: ${why}`, async () => {
        const delays: number[] = [];
        const sender = openRun(serverThatRefusesOnce(detail, how), {
          runId: "r",
          limits: { backoff },
          onState: (state) => state.t === "waiting" && delays.push(state.delayMs),
        });
        sender.emit({ type: "test" });
        await sender.flush();
        assert.ok(delays.length === 1 && isAsAsked(delays[0]!), `${delays}`);
        await sender.close(1_000);
      });
    }

    it("waits as long for its quota where there are several nodes: calls stay at theirs", async () => {
      const delays: number[] = [];
      const transport = Object.assign(serverThatRefusesOnce(usedUp, how), { nodeCount: 3 });
      const sender = openRun(transport, {
        runId: "r",
        limits: { backoff },
        onState: (state) => state.t === "waiting" && delays.push(state.delayMs),
      });
      await sender.opened;
      assert.ok(delays.length === 1 && isAsAsked(delays[0]!), `${delays}`);
      await sender.close(1_000);
    });

    it("stops where a quota is the reason", async () => {
      const sender = openRun(serverThatRefusesOnce(quota, how), { runId: "r" });
      await assert.rejects(sender.opened, isQuota);
    });
  });
}

describe("a follower that is refused for want of memory or quota", () => {
  const request = {
    filter: { scope: { case: "all" as const, value: {} } },
    stop: StopPolicy.CAUGHT_UP,
  };

  for (const [why, detail] of later) {
    it(`tries again after the time that the server asks for: ${why}`, async () => {
      const delays: number[] = [];
      const items: string[] = [];
      const transport = serverThatRefusesOnce(detail, "call");
      for await (const { t } of follow(transport, request, {
        backoff,
        onState: (state) => state.t === "waiting" && delays.push(state.delayMs),
      })) {
        items.push(t);
      }
      assert.deepEqual(items, ["caught_up"]);
      assert.ok(delays.length === 1 && isAsAsked(delays[0]!), `${delays}`);
    });
  }

  it("stops where a quota is the reason", async () => {
    const items = follow(serverThatRefusesOnce(quota, "call"), request);
    await assert.rejects(items.next(), isQuota);
  });
});
