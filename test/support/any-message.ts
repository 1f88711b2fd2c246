/** Messages of every method, made up from the contract. */
import {
  create,
  type DescField,
  type DescMessage,
  type DescMethod,
  type Message,
  ScalarType,
} from "@bufbuild/protobuf";
import fc from "fast-check";
import { Health } from "../../gen/grpc/health/v1/health_pb.js";
import { AdminService } from "../../gen/runlog/v1/admin_pb.js";
import { AuthService } from "../../gen/runlog/v1/auth_pb.js";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";

/** Every method that a server answers. */
export const methods: readonly DescMethod[] = [
  RunService,
  IngestService,
  SubscribeService,
  AdminService,
  AuthService,
  Health,
].flatMap((service): readonly DescMethod[] => service.methods);

/** Any message of a type; what is in it means nothing, but fits its types. */
export function messageOf(desc: DescMessage): fc.Arbitrary<Message> {
  const members = Object.fromEntries(
    desc.members.map((member) => {
      if (member.kind === "field") return [member.localName, fieldOf(member)];
      const cases = member.fields.map((field) =>
        valuesOf(field).map((value) => ({ case: field.localName, value })),
      );
      return [member.localName, fc.oneof(...cases)];
    }),
  );
  return fc
    .record(members, { requiredKeys: [] })
    .map((values) => create(desc, values as never) as Message);
}

function fieldOf(field: DescField): fc.Arbitrary<unknown> {
  switch (field.fieldKind) {
    case "list":
      return fc.array(valuesOf(field), { maxLength: 3 });
    case "map":
      return fc.dictionary(
        texts.filter((key) => key !== "__proto__"),
        valuesOf(field),
        { maxKeys: 3 },
      );
    default:
      return valuesOf(field);
  }
}

const texts = fc.oneof(
  fc.constantFrom("", "r", "default", "a.b", "\0", "ü"),
  fc.string({ unit: "grapheme", maxLength: 8 }),
);

function valuesOf(field: DescField): fc.Arbitrary<unknown> {
  if (field.message !== undefined) return messageOf(field.message);
  if (field.enum !== undefined) return fc.integer({ min: -1, max: 8 });
  switch (field.scalar) {
    case ScalarType.STRING:
      return texts;
    case ScalarType.BYTES:
      return fc.uint8Array({ maxLength: 20 });
    case ScalarType.BOOL:
      return fc.boolean();
    case ScalarType.INT64:
      return fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
    case ScalarType.UINT64:
      return fc.oneof(fc.bigInt({ min: 0n, max: 3n }), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }));
    case ScalarType.UINT32:
      return fc.oneof(fc.nat(3), fc.integer({ min: 0, max: 2 ** 32 - 1 }));
    default:
      return fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
  }
}
