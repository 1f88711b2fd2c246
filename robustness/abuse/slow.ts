/** Peers that begin something and do not go on, or do not read. */
import { create, toBinary } from "@bufbuild/protobuf";
import { IngestRequestSchema } from "../../gen/runlog/v1/ingest_pb.js";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { SubscribeRequestSchema, WatchRequestSchema } from "../../gen/runlog/v1/subscribe_pb.js";
import { pause } from "../load/actor.ts";
import { Channel } from "../load/channel.ts";
import type { Attack } from "./attack.ts";
import {
  begin,
  data,
  envelope,
  flags,
  frame,
  grpcHeaders,
  preface,
  settings,
  types,
} from "./raw-http2.ts";
import { crowd, untilOver } from "./repeat.ts";

const opening = Buffer.concat([preface, settings()]);
const ingestHeaders = grpcHeaders("/runlog.v1.IngestService/Ingest", "localhost");
const peers = 100;
/** A connection's window as HTTP/2 begins it: more than this is not sent without a leave. */
const windowBytes = 60_000;

function subscribeMessage(run: string): Buffer {
  const filter = { scope: { case: "runIds" as const, value: { runIds: [run] } } };
  const start = { case: "afterSeq" as const, value: 0n };
  return Buffer.from(
    toBinary(SubscribeRequestSchema, create(SubscribeRequestSchema, { filter, start })),
  );
}

function watchMessage(run: string, subscriptionId: number): Buffer {
  const filter = { scope: { case: "runIds" as const, value: { runIds: [run] } } };
  const request = { filter, start: { case: "afterSeq" as const, value: 0n } };
  const start = { case: "start" as const, value: { request } };
  return Buffer.from(
    toBinary(WatchRequestSchema, create(WatchRequestSchema, { subscriptionId, frame: start })),
  );
}

function openMessage(runId: string): Buffer {
  const open = { case: "open" as const, value: { runId, create: {} } };
  return Buffer.from(toBinary(IngestRequestSchema, create(IngestRequestSchema, { frame: open })));
}

/** All of them. */
export const slowPeers: readonly Attack[] = [
  {
    name: "slow-headers",
    what: "headers of HTTP/1.1 that come one at a time and never end",
    run: (target) =>
      crowd(target, peers, async (connection) => {
        await connection.write(Buffer.from("GET / HTTP/1.1\r\nHost: localhost\r\n"));
        while (!target.over.aborted && !connection.isGone) {
          await connection.write(Buffer.from("x-more: x\r\n"));
          await pause(100, target.over);
        }
      }),
  },
  {
    name: "half-messages",
    what: "messages of which all but the last bytes arrive, on many calls of many connections",
    run: (target) =>
      crowd(target, peers, async (connection) => {
        await connection.write(opening);
        const part = Buffer.concat([
          Buffer.of(0, 0, 0x7a, 0x12, 0x00),
          Buffer.alloc(windowBytes / 10),
        ]);
        for (let stream = 1; stream < 20; stream += 2) {
          await connection.write(Buffer.concat([begin(stream, ingestHeaders), data(stream, part)]));
        }
        await untilOver(target, connection);
      }),
  },
  {
    name: "large-unfinished-messages",
    what: "messages of 7 MiB that are announced with 8, on 40 connections that take every window they get",
    async run(target) {
      await crowd(target, 40, async (connection) => {
        const grown = frame(types.windowUpdate, flags.none, 0, Buffer.of(0, 0xff, 0xff, 0xff));
        await connection.write(Buffer.concat([opening, grown, begin(1, ingestHeaders)]));
        await connection.write(data(1, Buffer.of(0, 0, 0x7f, 0xff, 0xff)));
        const piece = data(1, Buffer.alloc(256 * 1024));
        // Where the window is shorter the connection is ended for it, and the next one begins.
        for (let count = 0; count < 14 && !connection.isGone; count++)
          await connection.write(piece);
        await untilOver(target, connection);
      });
    },
  },
  {
    name: "subscribers-never-read",
    what: "subscribers of a large run that never open their window, several on each of many connections",
    run: (target) =>
      crowd(
        target,
        peers,
        async (connection) => {
          const message = data(1, envelope(subscribeMessage(target.largeRun)));
          await connection.write(Buffer.concat([preface, settings({ 4: 0 })]));
          for (let stream = 1; stream < 20; stream += 2) {
            message.writeUInt32BE(stream, 5);
            const headers = grpcHeaders("/runlog.v1.SubscribeService/Subscribe", "localhost");
            const end = frame(types.data, flags.endStream, stream, Buffer.alloc(0));
            await connection.write(Buffer.concat([begin(stream, headers), message, end]));
          }
          await untilOver(target, connection);
        },
        false,
      ),
  },
  {
    name: "watchers-never-read",
    what: "Watch calls with a hundred subscriptions of a large run each, of which nobody reads",
    run: (target) =>
      crowd(
        target,
        peers / 2,
        async (connection) => {
          const headers = grpcHeaders("/runlog.v1.SubscribeService/Watch", "localhost");
          await connection.write(Buffer.concat([preface, settings({ 4: 0 }), begin(1, headers)]));
          for (let id = 1; id <= 100; id++) {
            await connection.write(data(1, envelope(watchMessage(target.largeRun, id))));
          }
          await untilOver(target, connection);
        },
        false,
      ),
  },
  {
    name: "producers-never-read",
    what: "producers that open runs and repeat refused frames without reading what they are answered",
    run: (target) =>
      crowd(
        target,
        peers / 4,
        async (connection, index) => {
          await connection.write(Buffer.concat([opening, begin(1, ingestHeaders)]));
          const grown = frame(types.windowUpdate, flags.none, 0, Buffer.of(0, 0xff, 0xff, 0xff));
          await connection.write(grown);
          for (let count = 0; count < 900 && !target.over.aborted; count++) {
            await connection.write(data(1, envelope(openMessage(`unread-${index}-${count % 20}`))));
          }
          await untilOver(target, connection);
        },
        false,
      ),
  },
  {
    name: "cancels-nobody-reads",
    what: "a run is asked to stop again and again while its producer does not read",
    async run(target) {
      const silent = crowd(
        target,
        1,
        async (connection) => {
          await connection.write(
            Buffer.concat([preface, settings({ 4: 0 }), begin(1, ingestHeaders)]),
          );
          await connection.write(data(1, envelope(openMessage("unread-cancel"))));
          await untilOver(target, connection);
        },
        false,
      );
      const channel = new Channel(target.url);
      try {
        await pause(300, target.over);
        while (!target.over.aborted) {
          const request = { runId: "unread-cancel", reason: "x".repeat(200) };
          const calls = Array.from({ length: 50 }, () =>
            channel.unary(RunService.method.cancelRun, request, 5_000).catch(() => undefined),
          );
          await Promise.all(calls);
        }
      } finally {
        channel.close();
      }
      await silent;
    },
  },
];
