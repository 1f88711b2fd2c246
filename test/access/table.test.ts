import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import type { DescService } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import {
  AccessFile,
  allPermissions,
  type GrantJson,
  mintingKey,
  tokenEntry,
  tokenOf,
} from "../support/access.ts";
import type { TestServer } from "../support/server.ts";
import { describeService, type WireClient } from "../support/wire.ts";
import { type MethodRow, methodRows, type Target } from "./methods.ts";

/** All services of the contract, found where they are generated. */
async function contractServices(): Promise<DescService[]> {
  const folder = new URL("../../gen/runlog/v1/", import.meta.url);
  const files = (await readdir(folder)).filter((name) => name.endsWith("_pb.js"));
  const modules = await Promise.all(
    files.map((name) => import(new URL(name, folder).href) as Promise<Record<string, unknown>>),
  );
  return modules
    .flatMap((module) => Object.values(module))
    .filter(
      (value): value is DescService => (value as DescService | undefined)?.kind === "service",
    );
}

describe("the table of methods and rights", () => {
  it("has a row for every method of the contract, and no other", async () => {
    const methods = (await contractServices()).flatMap((service) =>
      service.methods.map((method) => `${service.typeName}.${method.name}`),
    );
    assert.ok(methods.length > 10);
    assert.deepEqual(Object.keys(methodRows).toSorted(), methods.toSorted());
  });
});

const ok = "ok";

/** What became of a call, with ids that differ taken out. */
async function outcomeOf(
  { call }: MethodRow,
  client: WireClient,
  target: Target,
): Promise<{ readonly result: string; readonly message: string }> {
  try {
    await call(client, target);
    return { result: ok, message: "" };
  } catch (error) {
    const refused = ConnectError.from(error);
    const [detail] = refused.findDetails(ErrorDetailSchema);
    const message = refused.rawMessage
      .replaceAll(target.newRunId, "NEW")
      .replaceAll(target.runId, "RUN");
    const rest = detail && { ...detail, $typeName: undefined, $unknown: undefined };
    const shown = JSON.stringify(rest, (_, value: unknown) =>
      typeof value === "bigint" ? String(value) : value,
    );
    return {
      result: detail === undefined ? Code[refused.code] : Reason[detail.reason],
      message: `${Code[refused.code]} ${message} ${shown}`,
    };
  }
}

describeService("the rights", (wire, startServer) => {
  let file: AccessFile;
  let server: TestServer;
  const clients = new Map<string, WireClient>();
  const inside = { namespace: "default", runId: "child" };
  const outside = { namespace: "default", runId: "stranger" };
  const missing = { namespace: "default", runId: "nobody" };
  let used = 0;

  const everything = (rest: Partial<GrantJson> = {}): GrantJson => ({
    namespace: "default",
    permissions: allPermissions,
    ...rest,
  });

  /** Runs: root → child → grandchild, and stranger beside them. All but the roots have ended. */
  async function makeRuns(client: WireClient): Promise<number> {
    const create = async (runId: string, parentRunId = "") => {
      const { run } = await client.runs.createRun({ runId, spec: { parentRunId } });
      await client.ingest.appendEvents({
        runId,
        firstRunSeq: 1n,
        events: [{ type: "test", data: new Uint8Array(1) }],
      });
      return Number(run?.startSeq);
    };
    await create("root");
    const startSeq = await create("child", "root");
    await create("grandchild", "child");
    await create("stranger", "root");
    return startSeq;
  }

  before(async () => {
    const owner = tokenEntry("owner", [everything({ namespace: "*" })]);
    file = await AccessFile.make({ tokens: [owner] });
    const minting = { keys: [await file.writeText("minting.pem", mintingKey())] };
    server = await startServer({ accessFile: file.path });
    const first = await wire.connect(server.url, tokenOf("owner"));
    const startSeq = await makeRuns(first);
    first.close();
    const ancestor = { run_id: "child", start_seq: startSeq };
    const tokens = [
      owner,
      tokenEntry("powerless", []),
      tokenEntry("elsewhere", [everything({ namespace: "other" })]),
      tokenEntry("narrowed", [everything({ ancestor })]),
      // Of a run that had the id before.
      tokenEntry("outdated", [everything({ ancestor: { ...ancestor, start_seq: startSeq + 1 } })]),
      // Made before a restore from a backup: the seq is another run's now.
      tokenEntry("misnamed", [everything({ ancestor: { ...ancestor, run_id: "grandchild" } })]),
      ...allPermissions.map((permission) =>
        tokenEntry(permission, [everything({ permissions: [permission] })]),
      ),
      ...allPermissions.map((permission) =>
        tokenEntry(`without-${permission}`, [
          everything({ permissions: allPermissions.filter((one) => one !== permission) }),
        ]),
      ),
    ];
    await file.write({ tokens, minting });
    server = await server.restart();
    for (const { name } of tokens as { readonly name: string }[]) {
      clients.set(name, await wire.connect(server.url, tokenOf(name)));
    }
    // Not narrowed by an entry, but minted so by somebody who may do everything.
    const { token } = await clients.get("owner")!.auth.mintToken({
      grants: [{ ancestor: { runId: "child" }, permissions: [1, 2, 3, 4, 5] }],
    });
    clients.set("minted", await wire.connect(server.url, token));
    clients.set("nobody", await wire.connect(server.url));
    clients.set("unknown", await wire.connect(server.url, "a-token-that-nobody-knows"));
  });

  after(async () => {
    for (const client of clients.values()) client.close();
    clients.clear();
    await server.remove();
    await file.remove();
    assert.deepEqual(server.errors, []);
  });

  for (const [name, row] of Object.entries(methodRows)) {
    const { permissions, narrowed = "run", isEverywhere = false } = row;
    const targetOf = (target: Omit<Target, "newRunId">) => ({
      ...target,
      newRunId: `new-${used++}`,
    });
    const outcome = (identity: string, target: Omit<Target, "newRunId">) =>
      outcomeOf(row, clients.get(identity)!, targetOf(target));
    const expectResults = async (
      expected: string,
      identities: readonly string[],
      target: Omit<Target, "newRunId">,
    ) => {
      for (const identity of identities) {
        const { result, message } = await outcome(identity, target);
        assert.equal(result, expected, `${identity} on ${target.runId}: ${message}`);
      }
    };

    if (row.isBidirectional === true && !wire.isBidirectional) continue;

    it(`to call ${name} are those of the table`, async () => {
      await expectResults("UNAUTHENTICATED", ["nobody", "unknown"], inside);
      for (const target of [inside, outside, missing]) {
        // Without rights, the answer is the same whatever exists.
        const others = allPermissions.filter((one) => !permissions.includes(one));
        const lacking = permissions.map((permission) => `without-${permission}`);
        const refused = ["powerless", ...others, ...lacking];
        if (permissions.length === 0) {
          await expectResults(ok, ["elsewhere", "narrowed", "minted", ...refused], target);
          continue;
        }
        await expectResults(isEverywhere ? ok : "PERMISSION", ["elsewhere"], target);
        await expectResults("PERMISSION", refused, target);
      }
      const single = permissions.length === 1 ? permissions : [];
      const unneeded = allPermissions.filter((one) => !permissions.includes(one));
      const allowed = ["owner", ...single, ...unneeded.map((one) => `without-${one}`)];
      await expectResults(ok, allowed, inside);
      await expectResults(ok, allowed, outside);
    });

    if (permissions.length === 0) continue;

    it(`to call ${name} in a subtree end at it`, async () => {
      if (narrowed === "refused") {
        await expectResults("PERMISSION", ["narrowed", "minted", "outdated", "misnamed"], inside);
        return;
      }
      await expectResults(ok, ["narrowed", "minted"], inside);
      const ofMissing = await outcome("narrowed", missing);
      assert.notEqual(ofMissing.result, ok);
      assert.deepEqual(await outcome("narrowed", outside), ofMissing);
      assert.deepEqual(await outcome("minted", outside), ofMissing);
      for (const identity of ["narrowed", "minted"]) {
        assert.deepEqual(await outcome(identity, { ...inside, runId: "root" }), ofMissing);
      }
      assert.deepEqual(await outcome("outdated", inside), ofMissing);
      assert.deepEqual(await outcome("misnamed", inside), ofMissing);
      assert.deepEqual(await outcome("owner", missing), ofMissing);
    });
  }

  it("do not concern health", async () => {
    for (const identity of ["nobody", "unknown", "powerless", "owner"]) {
      const { status } = await clients.get(identity)!.health.check({ service: "" });
      assert.equal(status, 1);
    }
  });
});
