/** Bodies that come in many pieces, late, or while the server does not read. */
import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { queryObjects } from "node:v8";
import { Code, ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import { MemoryBudget } from "../../src/memory-budget.ts";
import { Arrivals, type BodySource } from "../../src/server/http/arrivals.ts";
import { bodyPieces } from "../../src/server/http/body-pieces.ts";
import { envelop } from "../../src/wire/envelope.ts";
import { endHeaders, fields, frame, frameType, RawConnection } from "../support/raw-http2.ts";
import { startTestServer, type TestServer } from "../support/server.ts";

const longMs = 60_000;
const memory = new MemoryBudget(1_000_000_000);

function arrivalsOf(source: PassThrough, timeoutMs = longMs): Arrivals {
  return new Arrivals(source as unknown as BodySource, undefined, timeoutMs, memory.messages);
}

describe("what arrives of a body", () => {
  it("is the same bytes in few pieces, however it was cut", async () => {
    const message = fc.uint8Array({ maxLength: 40_000, size: "max" });
    const sizes = fc.array(fc.integer({ min: 1, max: 20_000 }), { minLength: 1, maxLength: 6 });
    const property = fc.asyncProperty(
      fc.array(message, { maxLength: 4 }),
      sizes,
      fc.boolean(),
      async (messages, cuts, isEnveloped) => {
        const sent = Buffer.concat(envelop(messages.map((one) => [one])));
        const source = new PassThrough();
        const pieces = bodyPieces(arrivalsOf(source), isEnveloped);
        const writing = (async () => {
          for (let at = 0, cut = 0; at < sent.length; cut++) {
            const size = cuts[cut % cuts.length]!;
            source.write(sent.subarray(at, at + size));
            at += size;
            // Some arrive in one turn, others in several.
            if (cut % 7 === 0) await new Promise((resolve) => setImmediate(resolve));
          }
          source.end();
        })();
        const received: Uint8Array[] = [];
        for await (const piece of pieces) received.push(piece);
        await writing;
        assert.ok(Buffer.concat(received).equals(sent));
        assert.ok(received.length <= sent.length / 16_384 + 2 * messages.length + 1);
      },
    );
    await fc.assert(property, { numRuns: 40, examples: [[[new Uint8Array(3_000)], [1], true]] });
  });

  it("takes about the memory of its bytes while nobody takes it", async () => {
    const source = new PassThrough();
    const arrivals = arrivalsOf(source);
    const count = 300_000;
    for (let sent = 0; sent < count; sent++) source.write(Buffer.of(sent));
    await new Promise((resolve) => setImmediate(resolve));
    const pieces = await arrivals.take(1);
    assert.equal(
      pieces!.reduce((sum, piece) => sum + piece.length, 0),
      count,
    );
    assert.ok(pieces!.length <= count / 16_384 + 18, `${pieces!.length} pieces`);
    arrivals.close();
  });

  it("is late where the client lets the server wait, all its waits together", async () => {
    const source = new PassThrough();
    const arrivals = arrivalsOf(source, 60);
    source.write("a");
    await arrivals.take(0);
    const dripping = setInterval(() => source.write("b"), 20);
    try {
      await assert.rejects(
        async () => {
          for (;;) await arrivals.take(1);
        },
        (error) => error instanceof ConnectError && error.code === Code.DeadlineExceeded,
      );
    } finally {
      clearInterval(dripping);
      arrivals.close();
    }
  });

  it("is not late where the server does not read", async () => {
    const source = new PassThrough();
    const arrivals = arrivalsOf(source, 100);
    source.write("a");
    await arrivals.take(0);
    // The server has something else to do, for longer than a message may take.
    await sleep(250);
    setImmediate(() => source.write("b"));
    assert.equal(Buffer.concat((await arrivals.take(1))!).toString(), "b");
    arrivals.close();
  });
});

describe("a message in 20,000 pieces", () => {
  const pieces = 20_000;
  const ping = 6;
  let server: TestServer;

  beforeEach(async () => {
    server = await startTestServer();
  });

  afterEach(async () => {
    await server.remove();
    assert.deepEqual(server.errors, []);
  });

  for (const [path, type] of [
    ["SubscribeService/Watch", "application/grpc"],
    ["SubscribeService/Watch", "application/connect+proto"],
    ["IngestService/Ingest", "application/grpc"],
    ["RunService/ListRuns", "application/json"],
  ] as const) {
    it(`leaves no promise for each of them on ${path} as ${type}`, async () => {
      const connection = new RawConnection(server.url);
      const head = { ":method": "POST", ":scheme": "http", ":authority": "localhost" };
      const block = fields({ ...head, ":path": `/runlog.v1.${path}`, "content-type": type });
      await connection.send(frame(frameType.headers, endHeaders, 1, block));
      const header = Buffer.of(0, 0, 1, 0, 0);
      await connection.send(frame(frameType.data, 0, 1, header));
      const before = queryObjects(Promise, { format: "count" }) as number;
      const piece = frame(frameType.data, 0, 1, Buffer.of(1));
      for (let sent = 0; sent < pieces; sent += 100) {
        await connection.send(...Array.from({ length: 100 }, () => piece));
        // So that each comes in a read of its own, or nearly.
        await new Promise((resolve) => setImmediate(resolve));
      }
      // Answered once all that was sent before has been read.
      await connection.send(frame(ping, 0, 0, Buffer.alloc(8)));
      assert.ok((await connection.receive(ping)) !== undefined);
      const after = queryObjects(Promise, { format: "count" }) as number;
      assert.ok(after - before < 1_000, `${after - before} promises more`);
      connection.close();
    });
  }
});
