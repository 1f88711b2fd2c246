/** Messages of a legal size that cost more than they are worth. */
import { gzipSync } from "node:zlib";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { pause } from "../load/actor.ts";
import type { Attack, Target } from "./attack.ts";
import { RawCaller } from "./raw-caller.ts";
import { begin, data, envelope, flags, grpcHeaders, preface, settings } from "./raw-http2.ts";
import { crowd } from "./repeat.ts";

/** Just below what a server takes as one message. */
const messageBytes = 7 * 2 ** 20;
const atOnce = 6;
const callMs = 30_000;
const opening = Buffer.concat([preface, settings()]);

/** A submessage or string in a message. */
function field(number: number, bytes: Uint8Array): Uint8Array {
  return new BinaryWriter().tag(number, WireType.LengthDelimited).bytes(bytes).finish();
}

/** One field again and again, up to a size. */
function repeated(one: Uint8Array, bytes = messageBytes): Buffer {
  const count = Math.floor(bytes / one.length);
  const all = Buffer.alloc(count * one.length);
  for (let index = 0; index < count; index++) all.set(one, index * one.length);
  return all;
}

const text = (value: string) => Buffer.from(value);
const runId = field(1, text("bomb"));

/** The message over gRPC, several times at once, until time is over. */
function overGrpc(
  name: string,
  what: string,
  path: string,
  message: () => Buffer,
  isStream = false,
): Attack {
  return {
    name,
    what,
    async run(target) {
      const bytes = message();
      await Promise.all(
        Array.from({ length: atOnce }, async () => {
          while (!target.over.aborted) {
            const caller = new RawCaller(target.url);
            const answer = await caller.call(path, bytes, {
              isStream,
              timeoutMs: callMs,
              over: target.over,
            });
            if (answer.isServersFault) target.found(`${name}: ${answer.text}`);
            caller.close();
            await pause(10, target.over);
          }
        }),
      );
    },
  };
}

/** A body over HTTP/1.1. */
function overHttp(
  name: string,
  what: string,
  path: string,
  headers: Record<string, string>,
  body: () => Buffer,
): Attack {
  return {
    name,
    what,
    async run(target) {
      const bytes = new Uint8Array(body());
      await Promise.all(
        Array.from({ length: atOnce }, async () => {
          while (!target.over.aborted) {
            await post(name, target, path, headers, bytes);
            await pause(10, target.over);
          }
        }),
      );
    },
  };
}

async function post(
  name: string,
  target: Target,
  path: string,
  headers: Record<string, string>,
  body: Uint8Array<ArrayBuffer>,
) {
  try {
    const answer = await fetch(target.url + path, {
      method: "POST",
      headers,
      body,
      signal: target.over,
    });
    const said = await answer.text();
    if (answer.status >= 500 && answer.status !== 503) {
      target.found(`${name}: HTTP ${answer.status} ${said.slice(0, 200)}`);
    }
  } catch {
    // The connection is broken, or time is over.
  }
}

const nested = (depth: number): Buffer => {
  // Groups nest without a length in front of each.
  const open = new BinaryWriter().tag(3, WireType.StartGroup).finish();
  const close = new BinaryWriter().tag(3, WireType.EndGroup).finish();
  return Buffer.concat([repeated(open, depth), repeated(close, depth)]);
};

/** All of them. */
export const bombs: readonly Attack[] = [
  overGrpc(
    "empty-events",
    "an Append of millions of empty events",
    "/runlog.v1.IngestService/Ingest",
    () => Buffer.from(field(2, Buffer.concat([runId, repeated(field(3, Buffer.alloc(0)))]))),
    true,
  ),
  overGrpc(
    "empty-events-unary",
    "AppendEvents of millions of empty events",
    "/runlog.v1.IngestService/AppendEvents",
    () => repeated(field(6, Buffer.alloc(0))),
  ),
  overGrpc(
    "unknown-fields",
    "CreateRun with millions of fields that it does not have",
    "/runlog.v1.RunService/CreateRun",
    () => repeated(Buffer.of(0xf8, 0x7f, 1)),
  ),
  overGrpc(
    "many-run-ids",
    "a Subscribe with a million run ids",
    "/runlog.v1.SubscribeService/Subscribe",
    () => Buffer.from(field(2, field(2, repeated(field(1, text("r")))))),
  ),
  overGrpc(
    "many-labels",
    "CreateRun with a million labels",
    "/runlog.v1.RunService/CreateRun",
    () => Buffer.from(field(3, repeated(field(6, Buffer.alloc(0))))),
  ),
  overGrpc("many-states", "ListRuns of millions of states", "/runlog.v1.RunService/ListRuns", () =>
    Buffer.from(field(5, Buffer.alloc(messageBytes, 1))),
  ),
  overGrpc("deep-groups", "groups in groups, a million deep", "/runlog.v1.RunService/GetRun", () =>
    nested(1_000_000),
  ),
  overGrpc(
    "watch-frames",
    "a Watch frame with a million event types",
    "/runlog.v1.SubscribeService/Watch",
    () => Buffer.concat([Buffer.of(8, 1), field(3, repeated(field(4, text("t"))))]),
    true,
  ),
  overHttp(
    "deep-json",
    "JSON in JSON, a million deep",
    "/runlog.v1.RunService/CreateRun",
    { "content-type": "application/json" },
    () => Buffer.from(`{"spec":${"[".repeat(1_000_000)}${"]".repeat(1_000_000)}}`),
  ),
  overHttp(
    "wide-json",
    "JSON with millions of empty events",
    "/runlog.v1.IngestService/AppendEvents",
    { "content-type": "application/json" },
    () => Buffer.from(`{"runId":"r","events":[${"{},".repeat(2_000_000)}{}]}`),
  ),
  overHttp(
    "gzip-body",
    "256 MiB of nothing, compressed",
    "/runlog.v1.RunService/CreateRun",
    { "content-type": "application/proto", "content-encoding": "gzip" },
    () => gzipSync(Buffer.alloc(256 * 2 ** 20)),
  ),
  overHttp(
    "gzip-message",
    "256 MiB of nothing in a compressed gRPC-Web message",
    "/runlog.v1.RunService/CreateRun",
    { "content-type": "application/grpc-web+proto", "grpc-encoding": "gzip" },
    () => envelope(gzipSync(Buffer.alloc(256 * 2 ** 20)), 1),
  ),
  {
    name: "lying-lengths",
    what: "messages that announce 4 GiB, and none of it comes",
    run: (target) =>
      crowd(target, 50, async (connection) => {
        await connection.write(opening);
        for (let stream = 1; stream < 40; stream += 2) {
          const path = target.random.pick([
            "IngestService/Ingest",
            "SubscribeService/Watch",
            "RunService/GetRun",
          ]);
          const head = data(stream, Buffer.from([0, 0xff, 0xff, 0xff, 0xff]));
          await connection.write(
            Buffer.concat([begin(stream, grpcHeaders(`/runlog.v1.${path}`, "localhost")), head]),
          );
        }
        await pause(100, target.over);
      }),
  },
  {
    name: "header-bombs",
    what: "headers that take a large part of memory: many, long, with a time-out of 10^8 hours",
    run: (target) =>
      crowd(target, 16, async (connection) => {
        await connection.write(opening);
        const long: [string, string][] = [
          ...grpcHeaders("/runlog.v1.RunService/GetRun", "localhost"),
          ["grpc-timeout", "99999999H"],
          ...Array.from({ length: 150 }, (_, at): [string, string] => [`x-${at}`, "y".repeat(90)]),
        ];
        for (let stream = 1; stream < 100; stream += 2) {
          await connection.write(begin(stream, long, flags.endStream));
        }
        await pause(50, target.over);
      }),
  },
];
