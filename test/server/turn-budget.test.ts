import assert from "node:assert/strict";
import * as net from "node:net";
import { ConnectionSlots } from "../../src/server/http/connection-slots.ts";
import { listen, type Port } from "../../src/server/http/port.ts";
import { TurnBudget } from "../../src/server/http/turn-budget.ts";
import {
  endHeaders,
  endStream,
  fields,
  frame,
  frameType,
  RawConnection,
} from "../support/raw-http2.ts";

const nextTurn = () => new Promise((resolve) => setImmediate(resolve));
/** Calls that a connection may begin in one turn. */
const share = 32;

describe("a connection's turn", () => {
  let calls: string[];
  let budget: TurnBudget;

  beforeEach(() => {
    calls = [];
    const handle = { readStop: () => calls.push("stop"), readStart: () => calls.push("start") };
    budget = new TurnBudget({ _handle: handle } as never);
  });

  it("ends with its share of pieces, and the next one comes", async () => {
    for (let i = 0; i < 2_000; i++) budget.spend();
    assert.deepEqual(calls, ["stop"]);
    await nextTurn();
    assert.deepEqual(calls, ["stop", "start"]);
    for (let i = 0; i < 100; i++) budget.spend();
    await nextTurn();
    assert.deepEqual(calls, ["stop", "start"]);
  });

  it("ends with its share of calls; the others have theirs in order, before it is read again", async () => {
    const served: number[] = [];
    const begin = (n: number) =>
      budget.begin({ serve: () => served.push(n), isGone: () => n % 8 === 0 });
    for (let n = 1; n <= 70; n++) assert.equal(begin(n), n <= share);
    assert.deepEqual(calls, ["stop"]);
    assert.equal(served.length, share);
    await nextTurn();
    assert.equal(served.at(-1), 2 * share - 1);
    assert.deepEqual(calls, ["stop"]);
    assert.equal(begin(71), false);
    await nextTurn();
    assert.deepEqual(calls, ["stop", "start"]);
    // The first ones were served before anybody could give them up.
    const all = Array.from({ length: 71 }, (_, index) => index + 1);
    assert.deepEqual(
      served,
      all.filter((n) => n <= share || n % 8 !== 0),
    );
    await nextTurn();
    assert.equal(begin(72), true);
  });
});

describe("calls that a connection begins all at once", () => {
  const count = 500;
  let port: Port;
  let served: number;
  let servedInTurn: number;
  let mostInTurn: number;

  beforeEach(async () => {
    served = 0;
    servedInTurn = 0;
    mostInTurn = 0;
    port = await listen({
      host: "127.0.0.1",
      port: 0,
      streamHandler: () => false,
      handler: (_, response) => {
        served++;
        servedInTurn++;
        mostInTurn = Math.max(mostInTurn, servedInTurn);
        setImmediate(() => {
          servedInTurn = 0;
        });
        response.writeHead(404, {});
        response.end("");
      },
      onSession: () => () => undefined,
      onFault: (error) => assert.fail(String(error)),
      firstBytesTimeoutMs: 10_000,
      slots: new ConnectionSlots(10),
      onRefused: assert.fail,
    });
  });

  afterEach(async () => {
    port.stopAccepting();
    port.destroy();
    await port.closed();
  });

  const head = { ":method": "POST", ":scheme": "http", ":authority": "x", ":path": "/x" };
  const begin = (index: number) =>
    frame(frameType.headers, endHeaders | endStream, 2 * index + 1, fields(head));
  const reset = (index: number, code: number) =>
    frame(frameType.rstStream, 0, 2 * index + 1, Buffer.of(0, 0, 0, code));

  /** Its own counter may begin anew a turn later than the share. */
  const assertShared = () => assert.ok(mostInTurn <= 2 * share, `${mostInTurn} in a turn`);

  it("are served some at a time over HTTP/2", async () => {
    const connection = new RawConnection(`http://${port.host}:${port.port}`);
    await connection.send(...Array.from({ length: count }, (_, index) => begin(index)));
    for (let n = 0; n < count; n++) await connection.receive(frameType.headers);
    assert.equal(served, count);
    assertShared();
    connection.close();
  });

  it("are served some at a time over HTTP/1.1", async () => {
    const socket = net.connect({ host: port.host, port: port.port });
    const request = "GET /x HTTP/1.1\r\nhost: x\r\n\r\n";
    const last = "GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    socket.write(request.repeat(count - 1) + last);
    let text = "";
    for await (const chunk of socket) text += String(chunk);
    assert.equal(text.split("HTTP/1.1 404").length - 1, count);
    assertShared();
  });

  for (const [name, code] of [
    ["CANCEL", 8],
    ["INTERNAL_ERROR", 2],
  ] as const) {
    it(`and resets at once with ${name} are not served beyond its share`, async () => {
      const connection = new RawConnection(`http://${port.host}:${port.port}`);
      const pairs = Array.from({ length: count }, (_, n) => [begin(n), reset(n, code)]);
      await connection.send(...pairs.flat(), begin(count));
      while ((await connection.receive(frameType.headers))?.streamId !== 2 * count + 1);
      assert.ok(served < count / 2, `${served} of ${count} calls were served`);
      connection.close();
    });
  }
});
