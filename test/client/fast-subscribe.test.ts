import assert from "node:assert/strict";
import { toJson } from "@bufbuild/protobuf";
import {
  type CallOptions,
  Code,
  ConnectError,
  createClient,
  type Transport,
} from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ErrorDetailSchema } from "../../gen/runlog/v1/error_pb.js";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import {
  StopPolicy,
  type SubscribeResponse,
  SubscribeResponseSchema,
  SubscribeService,
} from "../../gen/runlog/v1/subscribe_pb.js";
import { type FollowRequest, openRun } from "../../src/client/index.ts";
import { connectTo, type NodeConnection } from "../../src/client/node/index.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { BreakingProxy } from "./breaking-proxy.ts";

/** What a call brought, and how it ended. */
interface Called {
  readonly responses: readonly unknown[];
  readonly header: readonly (string | null)[];
  readonly trailer: string | null;
  readonly error?: { readonly code: string; readonly message: string; readonly details: unknown };
}

describe("Subscribe over runlog's own transport", () => {
  let server: TestServer;
  let own: NodeConnection;
  let connects: Transport;

  beforeEach(async () => {
    server = await startTestServer();
    own = connectTo(server.url);
    connects = createGrpcTransport({ baseUrl: server.url });
  });

  afterEach(async () => {
    own.close();
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  const record = async (runId: string, sizes: readonly number[]) => {
    const sender = openRun(own.transport, { runId, spec: {} });
    for (const size of sizes) {
      await sender.ready();
      sender.emit({ type: `of.${size}`, data: Buffer.alloc(size, "x") });
    }
    await sender.finish({ state: RunState.SUCCEEDED });
  };

  const call = async (
    transport: Transport,
    runId: string,
    stop: StopPolicy,
    options: CallOptions & { readonly onCaughtUp?: () => void } = {},
  ): Promise<Called> => {
    const { onCaughtUp, ...rest } = options;
    const responses: unknown[] = [];
    let header: Headers | undefined;
    let trailer: Headers | undefined;
    const told = () => ({
      responses,
      header: [header?.get("content-type") ?? null],
      trailer: trailer?.get("grpc-status") ?? null,
    });
    try {
      const filter: FollowRequest["filter"] = {
        scope: { case: "runIds", value: { runIds: [runId] } },
      };
      const answers = createClient(SubscribeService, transport).subscribe(
        { filter, stop },
        {
          ...rest,
          onHeader: (headers) => {
            header = headers;
          },
          onTrailer: (trailers) => {
            trailer = trailers;
          },
        },
      );
      for await (const response of answers) {
        responses.push(toJson(SubscribeResponseSchema, response));
        if (response.frame.case === "caughtUp") onCaughtUp?.();
      }
      return told();
    } catch (thrown) {
      const error = ConnectError.from(thrown);
      const { code, rawMessage: message } = error;
      const details = error.findDetails(ErrorDetailSchema);
      return { ...told(), error: { code: Code[code], message, details } };
    }
  };

  /** What both transports tell of the same call. */
  const both = async (
    runId: string,
    stop: StopPolicy,
    options: () => CallOptions & { readonly onCaughtUp?: () => void } = () => ({}),
  ): Promise<Called> => {
    const [ours, theirs] = await Promise.all(
      [own.transport, connects].map((transport) => call(transport, runId, stop, options())),
    );
    assert.deepEqual(ours, theirs);
    return ours!;
  };

  it("brings what Connect's brings, however large", async () => {
    await record("large", [0, 1, 300_000, 5, 900_000, ...Array(2_000).fill(200)]);
    const { responses, error, trailer } = await both("large", StopPolicy.FINISHED);
    assert.equal(error, undefined);
    assert.equal(trailer, "0");
    assert.ok(responses.length > 4, `${responses.length} responses`);
  });

  it("is refused as Connect's is, with the details", async () => {
    const { error, responses } = await both("unknown", StopPolicy.FINISHED);
    assert.deepEqual(responses, []);
    assert.equal(error?.code, "NotFound");
    assert.ok(Array.isArray(error.details) && error.details.length === 1);
  });

  it("is refused although nobody took anything until that had long come", async () => {
    const refused = () =>
      createClient(SubscribeService, own.transport)
        .subscribe({ filter: { scope: { case: "runIds", value: { runIds: ["unknown"] } } } })
        [Symbol.asyncIterator]();
    const [first, second] = [refused(), refused()];
    await assert.rejects(second.next());
    // A turn later the stream of the first one, which was refused before, is gone.
    await new Promise((resolve) => setImmediate(resolve));
    await assert.rejects(first.next(), (error) => ConnectError.from(error).code === Code.NotFound);
  });

  it("ends at its deadline, and once it is aborted", async () => {
    await record("short", [1]);
    // How much comes before it is the machine's affair.
    for (const transport of [own.transport, connects]) {
      const late = await call(transport, "short", StopPolicy.UNSPECIFIED, { timeoutMs: 100 });
      assert.equal(late.error?.code, "DeadlineExceeded");
    }
    const aborted = await both("short", StopPolicy.UNSPECIFIED, () => {
      const abort = new AbortController();
      return { signal: abort.signal, timeoutMs: 0, onCaughtUp: () => abort.abort() };
    });
    assert.equal(aborted.error?.code, "Canceled");
    assert.ok(aborted.responses.length > 0);
  });

  it("learns from the trailers that the server drains", async () => {
    await record("short", [1]);
    let following = 0;
    const onCaughtUp = () => {
      if (++following === 2) void server.drain();
    };
    const { error, responses } = await both("short", StopPolicy.UNSPECIFIED, () => ({
      timeoutMs: 0,
      onCaughtUp,
    }));
    assert.equal(error?.code, "Unavailable");
    assert.ok(Object.hasOwn(responses.at(-1) as object, "goAway"));
  });

  it("makes the server wait while nobody takes what came, and loses nothing of it", async () => {
    const [events, size] = [300, 100_000];
    await record("much", Array(events).fill(size));
    let bytes = 0;
    const proxy = await BreakingProxy.start(server.url, () => (from, chunk) => {
      if (from === "server") bytes += chunk.length;
      return "forward";
    });
    const proxied = connectTo(proxy.url);
    try {
      const filter: FollowRequest["filter"] = {
        scope: { case: "runIds", value: { runIds: ["much"] } },
      };
      const subscribe = () =>
        createClient(SubscribeService, proxied.transport)
          .subscribe({ filter, stop: StopPolicy.FINISHED }, { timeoutMs: 0 })
          [Symbol.asyncIterator]();
      const countOf = async (answers: AsyncIterator<SubscribeResponse>) => {
        let came = 0;
        for (let next = await answers.next(); next.done !== true; next = await answers.next()) {
          const { frame } = next.value;
          if (frame.case === "events") came += frame.value.events.length;
        }
        return came;
      };
      const slow = subscribe();
      await slow.next();
      // Another one on the same connection gets everything meanwhile.
      assert.equal(await countOf(subscribe()), events + 2);
      // A window and what waits in the client, not all of it.
      assert.ok(bytes < events * size * 1.4, `${bytes} bytes`);
      assert.equal(await countOf(slow), events + 2);
    } finally {
      proxied.close();
      await proxy.close();
    }
  });

  it("says that nobody is there", async () => {
    await server.drain();
    const { error } = await call(own.transport, "none", StopPolicy.FINISHED);
    assert.equal(error?.code, "Unavailable");
  });
});
