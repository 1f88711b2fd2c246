/** ReadEvents, page by page, and the calls without side effects by HTTP GET. */
import assert from "node:assert/strict";
import * as diagnostics from "node:diagnostics_channel";
import { once } from "node:events";
import type * as http from "node:http";
import * as http2 from "node:http2";
import { Code, createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { type ReadEventsResponse, SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { startTestServer, type TestServer } from "../support/server.ts";
import { describeService, refusalOf, type WireClient } from "../support/wire.ts";

const all = { scope: { case: "all" as const, value: {} } };
const runs = (...runIds: string[]) => ({ scope: { case: "runIds" as const, value: { runIds } } });
const family = (ancestorRunId: string, includeSelf = true, maxDepth = 0) => ({
  scope: { case: "ancestor" as const, value: { ancestorRunId, includeSelf, maxDepth } },
});

/** A place in the journal, its run and what it holds, to compare pages by. */
const briefly = ({ events }: ReadEventsResponse) =>
  events.map(({ seq, runId, record }) => {
    const what = record.case === "event" ? Buffer.from(record.value.data) : record.case;
    return `${seq} ${runId} ${what}`;
  });

const KiB = 1024;

describeService("ReadEvents", (wire, startServer) => {
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

  const write = (runId: string, parentRunId: string, ...payloads: (string | Buffer)[]) =>
    client.ingest.appendEvents({
      runId,
      create: { parentRunId },
      firstRunSeq: 1n,
      events: payloads.map((data, i) => ({ type: `t.${i % 2}`, data: Buffer.from(data) })),
    });
  /** seq 1 to 4: root and three events; 5 to 7: child; 8 and 9: stranger. */
  const writeFamily = async () => {
    await write("root", "", "a", "b", "c");
    await write("child", "root", "d", "e");
    await write("stranger", "", "f");
  };
  const everything = [
    ...["1 root runStarted", "2 root a", "3 root b", "4 root c"],
    ...["5 child runStarted", "6 child d", "7 child e"],
    ...["8 stranger runStarted", "9 stranger f"],
  ];

  it("pages forward to the end, and on from there", async () => {
    await writeFamily();
    const first = await client.subscribe.readEvents({ filter: all, pageSize: 4 });
    assert.deepEqual(briefly(first), everything.slice(0, 4));
    assert.deepEqual([first.nextSeq, first.end], [4n, false]);
    const second = await client.subscribe.readEvents({ filter: all, seq: 4n, pageSize: 5 });
    assert.deepEqual(briefly(second), everything.slice(4));
    // A page that is exactly full and holds the last event knows it.
    assert.deepEqual([second.nextSeq, second.end], [9n, true]);
    const none = await client.subscribe.readEvents({ filter: all, seq: 9n });
    assert.deepEqual([none.events, none.nextSeq, none.end], [[], 9n, true]);
    await client.runs.createRun({ runId: "late" });
    const news = await client.subscribe.readEvents({ filter: all, seq: 9n });
    assert.deepEqual(briefly(news), ["10 late runStarted"]);
  });

  it("pages backward from the end to the beginning, in the middle of a batch too", async () => {
    await writeFamily();
    const pages: string[][] = [];
    let seq = 0n;
    for (let end = false; !end; ) {
      const page = await client.subscribe.readEvents({
        filter: all,
        backward: true,
        seq,
        pageSize: 2,
      });
      pages.push(briefly(page));
      ({ nextSeq: seq, end } = page);
    }
    assert.deepEqual(pages.flat(), everything.toReversed());
    assert.deepEqual(
      pages.map((page) => page.length),
      [2, 2, 2, 2, 1],
    );
    assert.equal(seq, 1n);
    const none = await client.subscribe.readEvents({ filter: all, backward: true, seq });
    assert.deepEqual([none.events, none.nextSeq, none.end], [[], 1n, true]);
  });

  it("takes the filters of Subscribe", async () => {
    await writeFamily();
    const seqs = async (filter: object, backward: boolean) => {
      const page = await client.subscribe.readEvents({ filter, backward });
      assert.ok(page.end);
      return page.events.map((event) => Number(event.seq)).join(" ");
    };
    const expected: [object, string][] = [
      [family("root"), "1 2 3 4 5 6 7"],
      [family("root", false), "5 6 7"],
      [family("child"), "5 6 7"],
      [runs("stranger", "root"), "1 2 3 4 8 9"],
      [{ ...all, eventTypes: ["t.1"] }, "1 3 5 7 8"],
      [{ ...family("root"), eventTypes: ["t.*"] }, "1 2 3 4 5 6 7"],
      [{ ...all, eventTypes: ["u"] }, "1 5 8"],
    ];
    for (const [filter, forward] of expected) {
      assert.equal(await seqs(filter, false), forward);
      assert.equal(await seqs(filter, true), forward.split(" ").reverse().join(" "));
    }
  });

  it("ends a page before it is too large for a client, and tells where to go on", async () => {
    const payloads = Array.from({ length: 9 }, (_, i) => Buffer.alloc(500 * KiB, `${i}`));
    await write("r", "", ...payloads.slice(0, 8));
    await client.ingest.appendEvents({
      runId: "r",
      firstRunSeq: 9n,
      events: [{ type: "t", data: payloads[8]! }],
    });
    for (const backward of [false, true]) {
      const received: string[] = [];
      const sizes: number[] = [];
      let seq = 0n;
      for (let end = false; !end; ) {
        const page = await client.subscribe.readEvents({
          filter: { ...all, eventTypes: ["t*"] },
          seq,
          backward,
        });
        received.push(
          ...page.events.flatMap(({ record }) =>
            record.case === "event" ? [String.fromCharCode(record.value.data[0]!)] : [],
          ),
        );
        sizes.push(page.events.length);
        ({ nextSeq: seq, end } = page);
      }
      const order = "012345678";
      assert.equal(received.join(""), backward ? [...order].reverse().join("") : order);
      // Six of 500 KiB stay below 3 MiB, and RunStarted goes with them.
      assert.deepEqual(sizes, backward ? [6, 4] : [7, 3]);
    }
  });

  it("takes pages of 100 events, and of 1,000 at most", async () => {
    const payloads = Array.from({ length: 1_200 }, (_, i) => `${i}`);
    await write("r", "", ...payloads);
    const usual = await client.subscribe.readEvents({ filter: all });
    assert.deepEqual([usual.events.length, usual.nextSeq, usual.end], [100, 100n, false]);
    const most = await client.subscribe.readEvents({ filter: all, pageSize: 1_000, seq: 100n });
    assert.deepEqual([most.events.length, most.nextSeq, most.end], [1_000, 1_100n, false]);
    const { code, detail } = await refusalOf(
      client.subscribe.readEvents({ filter: all, pageSize: 1_001 }),
    );
    assert.equal(code, Code.InvalidArgument);
    assert.equal(detail?.reason, Reason.INVALID_FIELD);
    assert.deepEqual([detail.field, detail.limit], ["page_size", 1_000n]);
  });

  it("refuses what does not exist, and says what does", async () => {
    await writeFamily();
    const refused = (rest: object) =>
      refusalOf(client.subscribe.readEvents({ filter: all, ...rest }));
    for (const filter of [runs("root", "nobody"), family("nobody")]) {
      const { code, detail } = await refused({ filter });
      assert.equal(code, Code.NotFound);
      assert.equal(detail?.reason, Reason.RUN_NOT_FOUND);
    }
    for (const rest of [{ seq: 10n }, { seq: 11n, backward: true }]) {
      const { code, detail } = await refused(rest);
      assert.equal(code, Code.OutOfRange);
      assert.equal(detail?.reason, Reason.CURSOR_AHEAD);
      assert.equal(detail.latestSeq, 9n);
    }
    const last = await client.subscribe.readEvents({ filter: all, seq: 10n, backward: true });
    assert.equal(last.events[0]?.seq, 9n);
    const wrong: [object, string][] = [
      [{ seq: 2n ** 53n }, "seq"],
      [{ filter: {} }, "filter.scope"],
      [{ filter: runs() }, "filter.run_ids.run_ids"],
      [{ filter: { ...all, eventTypes: ["a*b"] } }, "filter.event_types[0]"],
      [{ namespace: "-" }, "namespace"],
    ];
    for (const [rest, field] of wrong) {
      const { code, detail } = await refused(rest);
      assert.equal(code, Code.InvalidArgument);
      assert.deepEqual([detail?.reason, detail?.field], [Reason.INVALID_FIELD, field]);
    }
    const tooMany = await refused({
      filter: runs(...Array.from({ length: 101 }, (_, i) => `r${i}`)),
    });
    assert.equal(tooMany.detail?.reason, Reason.RUN_ID_LIMIT);
  });

  it("reads a namespace as empty that has never been written to", async () => {
    for (const backward of [false, true]) {
      const page = await client.subscribe.readEvents({ namespace: "none", filter: all, backward });
      assert.deepEqual([page.events, page.nextSeq, page.end], [[], backward ? 1n : 0n, true]);
    }
    const filter = runs("r");
    const { detail } = await refusalOf(client.subscribe.readEvents({ namespace: "none", filter }));
    assert.equal(detail?.reason, Reason.RUN_NOT_FOUND);
  });
});

describe("calls without side effects, by HTTP GET", () => {
  let server: TestServer;

  before(async () => {
    server = await startTestServer();
    const { status } = await post("IngestService/AppendEvents", {
      runId: "r",
      create: { displayName: "ü & more" },
      firstRunSeq: 1,
      events: [{ type: "t", data: Buffer.from("payload").toString("base64") }],
    });
    assert.equal(status, 200);
  });

  after(async () => {
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  const post = (method: string, message: object) =>
    fetch(`${server.url}/runlog.v1.${method}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(message),
    });
  const pathOf = (method: string, message: object, rest: Readonly<Record<string, string>> = {}) => {
    const query = { connect: "v1", encoding: "json", message: JSON.stringify(message), ...rest };
    return `/runlog.v1.${method}?${new URLSearchParams(query)}`;
  };
  const get = (...asked: Parameters<typeof pathOf>) => fetch(server.url + pathOf(...asked));

  const calls: readonly (readonly [string, object])[] = [
    ["SubscribeService/ReadEvents", { filter: { all: {} } }],
    ["SubscribeService/ReadEvents", { filter: { runIds: { runIds: ["r"] } }, backward: true }],
    ["SubscribeService/ReadEvents", { filter: { all: {} }, seq: "99" }],
    ["RunService/GetRun", { runId: "r" }],
    ["RunService/GetRun", { runId: "nobody" }],
    ["RunService/ListRuns", { pageSize: 10 }],
    ["AdminService/ListNamespaces", {}],
  ];

  it("are answered as POST is, whatever the answer", async () => {
    for (const [method, message] of calls) {
      const posted = await post(method, message);
      const expected = [posted.status, await posted.json()];
      const base64 = Buffer.from(JSON.stringify(message)).toString("base64url");
      for (const rest of [{}, { base64: "1", message: base64 }]) {
        const got = await get(method, message, rest);
        assert.deepEqual([got.status, await got.json()], expected, JSON.stringify([method, rest]));
      }
    }
    const page = await get("SubscribeService/ReadEvents", { filter: { all: {} } });
    const { events, ...rest } = (await page.json()) as { events: unknown[] };
    assert.deepEqual([events.length, rest], [2, { nextSeq: "2", end: true }]);
  });

  it("are answered on a connection that goes on, one after the other", async () => {
    // curl and browsers keep the connection; a body that nobody reads must not block it.
    const session = http2.connect(server.url);
    try {
      for (const [method, message] of calls) {
        const stream = session.request({ ":path": pathOf(method, message) });
        const [headers] = (await once(stream, "response")) as [http2.IncomingHttpHeaders];
        const text = (await stream.setEncoding("utf8").toArray()).join("");
        const posted = await post(method, message);
        assert.equal(headers[":status"], posted.status, method);
        assert.deepEqual(JSON.parse(text), await posted.json(), method);
      }
    } finally {
      session.close();
    }
  });

  it("are made so by Connect's clients where an option asks for it", async () => {
    const sessionManager = new Http2SessionManager(server.url);
    const options = { baseUrl: server.url, useHttpGet: true };
    // The client decides after its interceptors, so the server's side is asked.
    const methods = new Set<string>();
    const onHttp1 = (message: unknown) => {
      const { method, httpVersion } = (message as { request: http.IncomingMessage }).request;
      methods.add(`${method} HTTP/${httpVersion}`);
    };
    const onHttp2 = (message: unknown) => {
      const { headers } = message as { headers: http2.IncomingHttpHeaders };
      methods.add(`${headers[":method"]} HTTP/2`);
    };
    diagnostics.subscribe("http.server.request.start", onHttp1);
    diagnostics.subscribe("http2.server.stream.start", onHttp2);
    const transports: readonly Transport[] = [false, true].flatMap((useBinaryFormat) => [
      createConnectTransport({ ...options, useBinaryFormat, httpVersion: "1.1" }),
      createConnectTransport({ ...options, useBinaryFormat, httpVersion: "2", sessionManager }),
    ]);
    try {
      for (const transport of transports) {
        const subscribe = createClient(SubscribeService, transport);
        const page = await subscribe.readEvents({ filter: all, backward: true });
        assert.deepEqual(briefly(page), ["2 r payload", "1 r runStarted"]);
        const { run } = await createClient(RunService, transport).getRun({ runId: "r" });
        assert.equal(run?.spec?.displayName, "ü & more");
        const refused = await refusalOf(subscribe.readEvents({ filter: runs("nobody") }));
        assert.equal(refused.detail?.reason, Reason.RUN_NOT_FOUND);
      }
      assert.deepEqual(methods, new Set(["GET HTTP/1.1", "GET HTTP/2"]));
    } finally {
      diagnostics.unsubscribe("http.server.request.start", onHttp1);
      diagnostics.unsubscribe("http2.server.stream.start", onHttp2);
      sessionManager.abort();
    }
  });

  it("are the only ones: what changes something takes no GET", async () => {
    for (const method of ["RunService/CreateRun", "IngestService/AppendEvents"]) {
      assert.equal((await get(method, { runId: "other" })).status, 405);
    }
    const listed = await get("RunService/ListRuns", {});
    assert.equal(((await listed.json()) as { runs: unknown[] }).runs.length, 1);
  });
});
