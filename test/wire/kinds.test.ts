import assert from "node:assert/strict";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { type EventFilterSchema, RecordKind } from "../../gen/runlog/v1/record_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { StopPolicy } from "../../gen/runlog/v1/subscribe_pb.js";
import { eventsOf } from "../support/producer.ts";
import type { TestServer } from "../support/server.ts";
import { collect, describeService, refusalOf, type WireClient } from "../support/wire.ts";

type Filter = MessageInitShape<typeof EventFilterSchema>;

const { EVENT, SIGNAL, LIFECYCLE } = RecordKind;
const all: Filter = { scope: { case: "all", value: {} } };
const runs = (...runIds: string[]): Filter => ({ scope: { case: "runIds", value: { runIds } } });
const family = (ancestorRunId: string): Filter => ({
  scope: { case: "ancestor", value: { ancestorRunId } },
});

describeService("kinds of records", (wire, startServer) => {
  let server: TestServer;
  let client: WireClient;

  beforeEach(async () => {
    server = await startServer();
    client = await wire.connect(server.url);
  });

  afterEach(async () => {
    client.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  const finish = (runId: string) =>
    client.ingest.appendEvents({ runId, finish: { state: RunState.SUCCEEDED } });

  /** Seqs 1 to 3 of a root, 4 to 7 of its child: a start, an event, a signal; and an end. */
  const write = async () => {
    for (const [runId, parentRunId] of [
      ["root", ""],
      ["child", "root"],
    ] as const) {
      const create = { parentRunId };
      const [event] = eventsOf(runId);
      await client.ingest.appendEvents({ runId, create, firstRunSeq: 1n, events: [event!] });
      await client.runs.signalRun({ runId, event: { ...event!, type: "chat" } });
    }
    await finish("child");
  };

  const seqsOf = async (filter: Filter): Promise<string> => {
    const request = { filter, stop: StopPolicy.CAUGHT_UP };
    const seqs = (await collect(client.subscribe.subscribe(request))).flatMap(({ frame }) =>
      frame.case === "events" ? frame.value.events.map(({ seq }) => seq) : [],
    );
    const page = await client.subscribe.readEvents({ filter });
    assert.deepEqual(
      page.events.map(({ seq }) => seq),
      seqs,
      "ReadEvents reads the same",
    );
    return seqs.join(" ");
  };

  it("are chosen first, and event_types among events and signals", async () => {
    await write();
    const expected: [Filter, string][] = [
      [{ ...all, kinds: [] }, "1 2 3 4 5 6 7"],
      [{ ...all, kinds: [EVENT, SIGNAL, LIFECYCLE] }, "1 2 3 4 5 6 7"],
      [{ ...all, kinds: [LIFECYCLE] }, "1 4 7"],
      [{ ...all, kinds: [SIGNAL, SIGNAL] }, "3 6"],
      [{ ...all, kinds: [EVENT] }, "2 5"],
      [{ ...all, kinds: [LIFECYCLE, EVENT] }, "1 2 4 5 7"],
      [{ ...family("root"), kinds: [LIFECYCLE, SIGNAL] }, "4 6 7"],
      [{ ...runs("child"), kinds: [SIGNAL] }, "6"],
      [{ ...all, kinds: [SIGNAL, EVENT], eventTypes: ["chat"] }, "3 6"],
      [{ ...all, kinds: [LIFECYCLE, EVENT], eventTypes: ["chat"] }, "1 4 7"],
      [{ ...all, kinds: [EVENT], eventTypes: ["chat"] }, ""],
    ];
    for (const [filter, seqs] of expected) assert.equal(await seqsOf(filter), seqs);
  });

  it("that do not exist are refused", async () => {
    for (const kinds of [[RecordKind.UNSPECIFIED], [LIFECYCLE, 9], [1, 1, 1, 1]]) {
      const filter = { ...all, kinds: kinds as RecordKind[] };
      const calls = [
        collect(client.subscribe.subscribe({ filter })),
        client.subscribe.readEvents({ filter }),
      ];
      for (const call of calls) {
        const { code, detail } = await refusalOf(call);
        assert.deepEqual([code, detail?.reason], [Code.InvalidArgument, Reason.INVALID_FIELD]);
        assert.match(detail?.field ?? "", /^filter\.kinds/);
      }
    }
  });

  it("end a subscription by its stop policy, also where none of them is left", async () => {
    await write();
    const request = { filter: { ...runs("root"), kinds: [SIGNAL] }, stop: StopPolicy.FINISHED };
    const frames = collect(client.subscribe.subscribe(request));
    await finish("root");
    const received = (await frames).flatMap(({ frame }) =>
      frame.case === "events" ? frame.value.events.map(({ seq }) => Number(seq)) : [],
    );
    assert.deepEqual(received, [3]);
  });
});
