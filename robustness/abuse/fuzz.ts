/** Every method over every protocol, with messages that are nearly right, or not at all. */
import { type DescService, fromBinary, toJsonString } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { Health } from "../../gen/grpc/health/v1/health_pb.js";
import { AdminService } from "../../gen/runlog/v1/admin_pb.js";
import { AuthService } from "../../gen/runlog/v1/auth_pb.js";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { pause } from "../load/actor.ts";
import type { Random } from "../random.ts";
import type { Attack, Target } from "./attack.ts";
import { RawCaller } from "./raw-caller.ts";
import { envelope } from "./raw-http2.ts";

const services: readonly DescService[] = [
  AdminService,
  AuthService,
  IngestService,
  RunService,
  SubscribeService,
  Health,
];
const methods = services.flatMap(({ methods: all, typeName }) =>
  all.map((method) => ({ method, path: `/${typeName}/${method.name}` })),
);
const atOnce = 8;
const callMs = 3_000;
const maxDepth = 4;
const strings = [
  "",
  "r",
  "default",
  "a/b",
  "\0",
  "\u{1F4A5}",
  "x".repeat(300),
  "step.*",
  "*",
  "../..",
  "'; --",
];

/** Bytes of a message by no contract: fields with low numbers, nested, some of them broken. */
function messageOf(random: Random, depth = 0): Buffer {
  const writer = new BinaryWriter();
  for (let count = random.between(0, 6); count > 0; count--) {
    const number = random.between(1, 10);
    switch (random.between(0, 5)) {
      case 0:
        writer
          .tag(number, WireType.Varint)
          .uint64(random.pick([0n, 1n, 2n, 1000n, 2n ** 31n, 2n ** 63n, 2n ** 64n - 1n]));
        break;
      case 1:
        writer.tag(number, WireType.Bit32).fixed32(random.between(0, 2 ** 31));
        break;
      case 2:
        writer.tag(number, WireType.Bit64).fixed64(BigInt(random.between(0, 2 ** 31)));
        break;
      case 3:
        writer.tag(number, WireType.LengthDelimited).bytes(Buffer.from(random.pick(strings)));
        break;
      default:
        if (depth < maxDepth) {
          writer.tag(number, WireType.LengthDelimited).bytes(messageOf(random, depth + 1));
        }
    }
  }
  const bytes = Buffer.from(writer.finish());
  if (bytes.length > 0 && random.between(0, 3) === 0) {
    bytes[random.between(0, bytes.length - 1)] = random.between(0, 255);
  }
  return random.between(0, 9) === 0 ? bytes.subarray(0, Math.floor(bytes.length / 2)) : bytes;
}

/** Keeps several calls going, each with a message of its own. */
async function many(target: Target, one: (random: Random) => Promise<void>): Promise<void> {
  await Promise.all(
    Array.from({ length: atOnce }, async (_, index) => {
      const random = target.random.fork(`caller ${index}`);
      while (!target.over.aborted) {
        await one(random);
        await pause(0, target.over);
      }
    }),
  );
}

async function post(
  target: Target,
  path: string,
  headers: Record<string, string>,
  body: Buffer | undefined,
  isJudged = true,
) {
  const method = body === undefined ? "GET" : "POST";
  const told = `${method} ${path} ${headers["content-type"] ?? ""} ${body?.toString("hex").slice(0, 400) ?? ""}`;
  const late = AbortSignal.any([target.over, AbortSignal.timeout(callMs)]);
  try {
    const answer = await fetch(target.url + path, {
      method,
      headers,
      ...(body === undefined ? {} : { body: new Uint8Array(body) }),
      signal: late,
    });
    const status = answer.headers.get("grpc-status");
    const text = await answer.text();
    const isFailure =
      answer.status === 500 ||
      status === "13" ||
      status === "2" ||
      /"code":"(internal|unknown)"|grpc-status: ?(13|2)\r/.test(text);
    if (isFailure && isJudged) {
      target.found(`${told}: HTTP ${answer.status} ${status ?? ""} ${text.slice(0, 200)}`);
    }
  } catch {
    // A stream that does not end, or a broken connection: the canary sees whether the server lives.
  }
}

function jsonOf(random: Random, schema: Parameters<typeof fromBinary>[0]): string {
  try {
    const text = toJsonString(schema, fromBinary(schema, messageOf(random)));
    if (random.between(0, 2) > 0) return text;
    const at = random.between(0, text.length);
    return (
      text.slice(0, at) +
      random.pick(["{", "]", "null", '"', "1e999", "\\u0000", ","]) +
      text.slice(at)
    );
  } catch {
    return random.pick([
      "",
      "null",
      "[]",
      "{",
      '{"runId":1}',
      '{"spec":{"lease":"-1s"}}',
      '{"events":[{"time":"x"}]}',
    ]);
  }
}

/** A way to send a message that is not gRPC's. */
function overHttp(name: string, type: string, isEnveloped: boolean): Attack {
  return {
    name,
    what: `random messages to every method, as ${type}`,
    run: (target) =>
      many(target, async (random) => {
        const { method, path } = random.pick(methods);
        const isJson = type.endsWith("json");
        const message = isJson ? Buffer.from(jsonOf(random, method.input)) : messageOf(random);
        // gRPC wants INTERNAL for a message that says it is compressed where no header does.
        const flag = isEnveloped ? random.pick([0, 0, 0, 1, 2, 128]) : 0;
        const body = isEnveloped ? envelope(message, flag) : message;
        await post(target, path, { "content-type": type }, body, flag === 0);
      }),
  };
}

/** All of them. */
export const fuzzers: readonly Attack[] = [
  {
    name: "fuzz-grpc",
    what: "random messages to every method, as gRPC",
    async run(target) {
      const callers = Array.from({ length: atOnce }, () => new RawCaller(target.url));
      await many(target, async (random) => {
        const { method, path } = random.pick(methods);
        const isStream = method.methodKind !== "unary";
        const message = messageOf(random);
        const options = { isStream, timeoutMs: random.between(50, 400), over: target.over };
        const answer = await random.pick(callers).call(path, message, options);
        if (answer.isServersFault) {
          target.found(`gRPC ${path} ${message.toString("hex").slice(0, 400)}: ${answer.text}`);
        }
      });
      for (const caller of callers) caller.close();
    },
  },
  overHttp("fuzz-grpc-web", "application/grpc-web+proto", true),
  overHttp("fuzz-grpc-web-text", "application/grpc-web-text", true),
  overHttp("fuzz-connect-proto", "application/proto", false),
  overHttp("fuzz-connect-json", "application/json", false),
  overHttp("fuzz-connect-stream", "application/connect+proto", true),
  overHttp("fuzz-connect-stream-json", "application/connect+json", true),
  {
    name: "fuzz-get",
    what: "random messages to every method, by GET",
    run: (target) =>
      many(target, async (random) => {
        const { method, path } = random.pick(methods);
        const message = random.pick([
          `encoding=json&message=${encodeURIComponent(jsonOf(random, method.input))}`,
          `encoding=proto&base64=1&message=${messageOf(random).toString("base64url")}`,
          `encoding=proto&message=%00%ff%`,
          "connect=v1",
          `connect=v2&encoding=${random.pick(strings)}`,
        ]);
        await post(target, `${path}?${message}`, {}, undefined);
      }),
  },
];
