/** Bytes that arrive in pieces, as networks and proxies may cut them. */
import { pause } from "../load/actor.ts";
import type { Attack, Target } from "./attack.ts";
import {
  begin,
  data,
  envelope,
  flags,
  grpcHeaders,
  preface,
  RawConnection,
  settings,
} from "./raw-http2.ts";

const http1 = Buffer.from("GET /healthz HTTP/1.1\r\nhost: canary\r\n\r\n");
const call = Buffer.concat([
  preface,
  settings(),
  begin(1, grpcHeaders("/grpc.health.v1.Health/Check", "canary")),
  data(1, envelope(new Uint8Array())),
]);
/** Milliseconds between pieces: each becomes a segment of its own. */
const gapMs = 2;

async function inPieces(
  { write }: { write: (bytes: Buffer) => Promise<void> },
  pieces: Iterable<Buffer>,
  over: AbortSignal,
) {
  for (const piece of pieces) {
    if (over.aborted) return;
    await write(piece);
    await pause(gapMs, over);
  }
}

function* bytesOf(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at++) yield bytes.subarray(at, at + 1);
}

async function send(target: Target, pieces: Iterable<Buffer>, staysMs: number): Promise<void> {
  const connection = await RawConnection.open(target);
  if (connection === undefined) return;
  await inPieces({ write: (bytes) => connection.write(bytes) }, pieces, target.over);
  await pause(staysMs, target.over);
  connection.close();
}

/** All of them. */
export const fragments: readonly Attack[] = [
  {
    name: "first-bytes",
    what: "every beginning of HTTP/2's preface and of a request: P, PR, PRI …, and then silence or the end",
    async run(target) {
      const beginnings = [preface, http1].flatMap((whole) =>
        Array.from({ length: whole.length }, (_, at) => whole.subarray(0, at + 1)),
      );
      await Promise.all(beginnings.map((piece) => send(target, [piece], 300)));
      await Promise.all(beginnings.map((piece) => send(target, bytesOf(piece.subarray(0, 8)), 50)));
    },
  },
  {
    name: "byte-by-byte",
    what: "requests of HTTP/1.1 and calls of HTTP/2, each byte in a segment of its own",
    async run(target) {
      while (!target.over.aborted) {
        await Promise.all(
          [http1, call, http1, call].map((whole) => send(target, bytesOf(whole), 20)),
        );
      }
    },
  },
  {
    name: "random-splits",
    what: "calls that are cut anywhere, also in the middle of the preface and of frames",
    async run(target) {
      const { random, over } = target;
      while (!over.aborted) {
        const whole = Buffer.concat([
          call,
          begin(3, grpcHeaders("/nowhere", "x"), flags.endStream),
        ]);
        const pieces: Buffer[] = [];
        for (let at = 0; at < whole.length; ) {
          const length = random.between(1, random.pick([1, 4, 40]));
          pieces.push(whole.subarray(at, at + length));
          at += length;
        }
        await Promise.all(Array.from({ length: 4 }, () => send(target, pieces, 5)));
      }
    },
  },
];
