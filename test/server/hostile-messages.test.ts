/**
 * Whatever the messages are, over every protocol: what is wrong with them is
 * INVALID_ARGUMENT with the field at fault, and never costs more than its bytes.
 */
import assert from "node:assert/strict";
import { type ClientHttp2Session, connect } from "node:http2";
import {
  create,
  type DescField,
  type DescMessage,
  type DescMethod,
  ScalarType,
  toBinary,
  toJsonString,
} from "@bufbuild/protobuf";
import { DurationSchema, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import fc from "fast-check";
import { Reason } from "../../gen/runlog/v1/error_pb.js";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { maxJsonValues } from "../../src/limits.ts";
import { messageOf, methods } from "../support/any-message.ts";
import { type RawProtocol, rawCall, rawProtocols } from "../support/raw-call.ts";
import { journalKinds, type TestServer } from "../support/server.ts";

/** Codes that refuse a request for what it is, or for what there is. */
const refusals = [Code.InvalidArgument, Code.NotFound, Code.OutOfRange, Code.FailedPrecondition];

for (const [kind, startServer] of Object.entries(journalKinds)) {
  describe(`messages from anybody on ${kind}`, () => {
    let server: TestServer;
    let session: ClientHttp2Session;

    before(async () => {
      server = await startServer();
      session = connect(server.url);
    });

    after(async () => {
      session.destroy();
      await server.remove();
    });

    afterEach(() => {
      assert.deepEqual(server.errors, []);
    });

    const call = (protocol: RawProtocol, method: DescMethod, message: Uint8Array) =>
      rawCall(session, protocol, method, message);

    for (const protocol of rawProtocols) {
      it(`never break a call over ${protocol.name}`, async () => {
        const asked = methods.filter(protocol.takes);
        for (const method of asked) {
          const encoded = messageOf(method.input).map(
            (message) => encode(protocol, method, message) ?? Buffer.from("{}"),
          );
          const mutated = fc
            .tuple(encoded, fc.nat(), fc.nat(255), fc.boolean())
            .map(([bytes, at, byte, isCut]) => {
              const changed = Uint8Array.from(bytes);
              if (isCut) return changed.subarray(0, at % (changed.length + 1));
              if (changed.length > 0) changed[at % changed.length] = byte;
              return changed;
            });
          const any = fc.oneof(encoded, mutated, fc.uint8Array({ maxLength: 40 }));
          await fc.assert(
            fc.asyncProperty(any, async (bytes) => {
              const failure = await call(protocol, method, bytes);
              if (failure === undefined || refusals.includes(failure.code)) return;
              // Nobody has 2^32 runs to give credit for, or a service of any name.
              assert.fail(`${method.name}: ${Code[failure.code]}`);
            }),
            { numRuns: 6 },
          );
        }
      });

      it(`are INVALID_ARGUMENT over ${protocol.name} where they are none`, async () => {
        for (const method of methods.filter(protocol.takes)) {
          const failure = await call(protocol, method, Uint8Array.of(0x0a, 0x7f, 0x00));
          assert.equal(failure && Code[failure.code], "InvalidArgument", method.name);
          assert.equal(failure?.detail?.reason, Reason.INVALID_FIELD, method.name);
        }
      });
    }

    it("name the field that no journal can hold, or no reader read, over every protocol", async () => {
      const tried: string[] = [];
      for (const method of methods.filter(isChecked)) {
        for (const [path, values] of unheld(method.input)) {
          const message = create(method.input, { ...baseOf(method), ...values } as never);
          for (const protocol of rawProtocols.filter(({ takes }) => takes(method))) {
            const bytes = encode(protocol, method, message);
            if (bytes === undefined) continue;
            const failure = await call(protocol, method, bytes);
            const where = `${method.name} ${path} over ${protocol.name}`;
            assert.equal(failure && Code[failure.code], "InvalidArgument", where);
            assert.deepEqual(
              [failure?.detail?.reason, failure?.detail?.field],
              [Reason.INVALID_FIELD, path],
              where,
            );
            tried.push(where);
          }
        }
      }
      assert.ok(tried.length > 150, `${tried.length} were tried`);
    });

    it("name what JSON cannot mean", async () => {
      const { listRuns, createRun } = RunService.method;
      const { subscribe } = SubscribeService.method;
      const { appendEvents } = IngestService.method;
      const wrong: readonly [DescMethod, string, string][] = [
        [listRuns, '{"labels":{"a":1}}', "labels"],
        [listRuns, '{"conversationId":"\\ud800"}', "conversation_id"],
        [createRun, '{"spec":{"lease":"999999999999999s"}}', "spec.lease"],
        [createRun, '{"spec":{"labels":{"a":"\\udc00"}}}', "spec.labels"],
        [
          subscribe,
          '{"filter":{"runIds":{"runIds":["a","\\ud800"]}}}',
          "filter.run_ids.run_ids[1]",
        ],
        [
          appendEvents,
          '{"events":[{"type":"a"},{"time":"99999-01-01T00:00:00Z"}]}',
          "events[1].time",
        ],
        [listRuns, `{"labels":{"a":"${"\xff"}"}}`, "request"],
        [listRuns, `{"a":${"[".repeat(100)}`, "request"],
        [listRuns, `{"a":[${"0,".repeat(maxJsonValues)}0]}`, "request"],
      ];
      for (const [method, text, field] of wrong) {
        for (const protocol of rawProtocols) {
          if (protocol.format !== "json" || !protocol.takes(method)) continue;
          if (protocol.name.includes("GET") && text.length > 1_000) continue;
          const failure = await call(protocol, method, Buffer.from(text, "latin1"));
          assert.equal(failure?.detail?.field, field, `${text.slice(0, 80)} over ${protocol.name}`);
          assert.equal(failure?.code, Code.InvalidArgument);
        }
      }
    });

    it("name the way out where they have too many run ids, however many", async () => {
      const { subscribe, readEvents } = SubscribeService.method;
      const runIds = Array.from({ length: 10_000 }, (_, i) => `run-${i}`);
      const filter = { scope: { case: "runIds" as const, value: { runIds } } };
      for (const method of [subscribe, readEvents]) {
        for (const protocol of rawProtocols.filter(({ takes }) => takes(method))) {
          // An address is bounded by HTTP.
          if (protocol.name.includes("GET")) continue;
          const message = create(method.input, { filter } as never);
          const failure = await call(protocol, method, encode(protocol, method, message)!);
          assert.equal(failure?.detail?.reason, Reason.RUN_ID_LIMIT, protocol.name);
          assert.equal(failure.detail.limit, 100n);
        }
      }
    });

    it("are as large as their limit says once they are decompressed", async () => {
      const zeros = new Uint8Array(9 * 1024 * 1024);
      for (const protocol of rawProtocols.filter(({ name }) => name.includes("gzip"))) {
        const failure = await call(protocol, RunService.method.listRuns, zeros);
        assert.equal(failure?.detail?.reason, Reason.TOO_LARGE, protocol.name);
      }
    });
  });
}

/** Undefined for times that JSON cannot write. */
function encode(
  { format }: RawProtocol,
  { input }: DescMethod,
  message: object,
): Uint8Array | undefined {
  if (format === "binary") return toBinary(input, message as never);
  try {
    return Buffer.from(toJsonString(input, message as never));
  } catch {
    return undefined;
  }
}

/** Calls that are answered for the whole; on the others what is wrong concerns a run or subscription. */
function isChecked(method: DescMethod): boolean {
  return method.methodKind !== "bidi_streaming" && method !== SubscribeService.method.subscribeMany;
}

function baseOf(method: DescMethod): object {
  return method === IngestService.method.appendEvents ? { runId: "r", firstRunSeq: 1n } : {};
}

type Values = Record<string, unknown>;

/** Every field of a message, at any depth, with a value that nobody can hold. */
function* unheld(desc: DescMessage): Generator<[path: string, values: Values]> {
  for (const field of desc.fields) {
    for (const [path, value] of unheldOf(field)) {
      const name = field.localName;
      if (field.oneof === undefined) yield [path, { [name]: value }];
      else yield [path, { [field.oneof.localName]: { case: name, value } }];
    }
  }
}

function* unheldOf(field: DescField): Generator<[path: string, value: unknown]> {
  const { name } = field;
  if (field.fieldKind === "map") {
    yield [`${name} (a key)`, { "a\0": "" }];
    yield [`${name}["k"]`, { k: "a\0" }];
    return;
  }
  const isList = field.fieldKind === "list";
  const at = isList ? `${name}[0]` : name;
  const wrap = (value: unknown) => (isList ? [value] : value);
  if (field.scalar === ScalarType.STRING) yield [at, wrap("a\0b")];
  switch (field.message?.typeName) {
    case undefined:
      return;
    case TimestampSchema.typeName:
      yield [at, wrap({ seconds: 253_402_300_800n, nanos: 0 })];
      yield [at, wrap({ seconds: 0n, nanos: -1 })];
      return;
    case DurationSchema.typeName:
      yield [at, wrap({ seconds: 315_576_000_001n, nanos: 0 })];
      yield [at, wrap({ seconds: 1n, nanos: -1 })];
      return;
    default:
      for (const [path, values] of unheld(field.message!)) yield [`${at}.${path}`, wrap(values)];
  }
}
