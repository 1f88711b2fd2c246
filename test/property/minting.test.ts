/**
 * No chain of mints gains a right: what a minted token may do, and for how long, its minter
 * may too. By the answers of a real server, call by call.
 */
import assert from "node:assert/strict";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import type { Permission } from "../../gen/runlog/v1/auth_pb.js";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import {
  AccessFile,
  allPermissions,
  type GrantJson,
  mintingKey,
  tokenEntry,
  tokenOf,
} from "../support/access.ts";
import { assertHistories } from "../support/histories.ts";
import { startTestServer, type TestServer } from "../support/server.ts";
import { type WireClient, wires } from "../support/wire.ts";

const wire = wires.find(({ name }) => name === "gRPC (connect-node)")!;
const namespaces = ["default", "other"] as const;
/** Each with its parent; the same in both namespaces. */
const tree = { a: "", b: "a", c: "b", d: "a", e: "" } as const;
const runIds = Object.keys(tree) as (keyof typeof tree)[];
const event = { type: "test" };

interface WantedGrant {
  readonly namespace: string;
  readonly runId: string | undefined;
  /** Of the run that had the id before, or of another one. */
  readonly startSeqOff: number;
  readonly permissions: readonly Permission[];
}

interface Mint {
  readonly grants: readonly WantedGrant[];
  readonly lifetimeS: number | undefined;
}

const permissionsOf = <T>(maxLength: number, ...all: readonly T[]) =>
  fc.uniqueArray(fc.constantFrom(...all), { minLength: 1, maxLength });

const wantedGrant: fc.Arbitrary<WantedGrant> = fc.record({
  namespace: fc.constantFrom("", "", "", "", "other", "*"),
  runId: fc.option(fc.constantFrom(...runIds), { nil: undefined, freq: 4 }),
  startSeqOff: fc.constantFrom(0, 0, 0, 0, 0, 0, 1, -1),
  permissions: permissionsOf(2, 1, 2, 3, 4, 5),
});
const mint: fc.Arbitrary<Mint> = fc.record({
  grants: fc.array(wantedGrant, { minLength: 1, maxLength: 2 }),
  lifetimeS: fc.option(fc.integer({ min: 1, max: 7_200 }), { nil: undefined }),
});
/** What the access file gives: by namespace and run. */
const ownGrant = fc.record({
  namespace: fc.constantFrom("default", "default", "other", "*"),
  runId: fc.option(fc.constantFrom(...runIds), { nil: undefined }),
  permissions: permissionsOf(5, ...allPermissions),
});

type Question = readonly [name: string, ask: (client: WireClient) => Promise<unknown>];

/** What a server is asked of one's rights, by calls that change little. */
const questions: readonly Question[] = [
  ...namespaces.flatMap((namespace): Question[] => [
    [`list ${namespace}`, ({ runs }) => runs.listRuns({ namespace, pageSize: 1 })],
    [`root ${namespace}`, ({ runs }) => runs.createRun({ namespace })],
    [`all ${namespace}`, ({ admin }) => admin.setRetention({ namespace })],
    [`read ${namespace}/a`, ({ runs }) => runs.getRun({ namespace, runId: "a" })],
    [`cancel ${namespace}/b`, ({ runs }) => runs.cancelRun({ namespace, runId: "b" })],
  ]),
  ...runIds.flatMap((runId): Question[] => [
    [`read ${runId}`, ({ runs }) => runs.getRun({ runId })],
    [`signal ${runId}`, ({ runs }) => runs.signalRun({ runId, signalId: "s", event })],
    [`ingest ${runId}`, ({ ingest }) => ingest.appendEvents({ runId, firstRunSeq: 1n })],
  ]),
];

async function reasonOf(call: Promise<unknown>): Promise<Reason | undefined> {
  try {
    await call;
    return undefined;
  } catch (error) {
    const [detail] = ConnectError.from(error).findDetails(ErrorDetailSchema);
    if (detail === undefined) throw error;
    return detail.reason;
  }
}

/** What a caller may do, by asking for it. */
async function allowedTo(client: WireClient): Promise<Set<string>> {
  const allowed = await Promise.all(
    questions.map(async ([name, ask]) => {
      return (await reasonOf(ask(client))) === undefined ? [name] : [];
    }),
  );
  return new Set(allowed.flat());
}

describe("no chain of mints", () => {
  let file: AccessFile;
  let server: TestServer;
  let owner: WireClient;
  const startSeqs = new Map<string, number>();
  const ownerEntry = tokenEntry("owner", [{ namespace: "*", permissions: allPermissions }]);
  let minting: object;

  before(async () => {
    file = await AccessFile.make({ tokens: [ownerEntry] });
    minting = { keys: [await file.writeText("minting.pem", mintingKey())] };
    await file.write({ tokens: [ownerEntry], minting });
    server = await startTestServer({ accessFile: file.path });
    owner = await wire.connect(server.url, tokenOf("owner"));
    for (const namespace of namespaces) {
      for (const [runId, parentRunId] of Object.entries(tree)) {
        const { run } = await owner.runs.createRun({ namespace, runId, spec: { parentRunId } });
        startSeqs.set(`${namespace}/${runId}`, Number(run!.startSeq));
      }
    }
  });

  after(async () => {
    owner.close();
    await server.remove();
    await file.remove();
  });

  /** The entries that the file will have; all at once, since it is read again once a second. */
  const policySize = 24;
  const policy = fc.array(
    fc.array(ownGrant, { minLength: 1, maxLength: 3 }).map((grants) =>
      grants.map(({ namespace, runId, permissions }): GrantJson => {
        if (runId === undefined) return { namespace, permissions };
        const of = namespace === "*" ? "default" : namespace;
        const ancestor = { run_id: runId, start_seq: startSeqs.get(`${of}/${runId}`)! };
        return { namespace: of, ancestor, permissions };
      }),
    ),
    { minLength: policySize, maxLength: policySize },
  );

  it("gains a permission, a namespace, a run or time", async () => {
    const seed = Math.floor(Math.random() * 2 ** 31);
    const [policyOf] = fc.sample(policy, { numRuns: 1, seed });
    const names = policyOf!.map((_, index) => `caller-${index}`);
    const tokens = policyOf!.map((grants, index) => tokenEntry(names[index]!, grants));
    await file.write({ tokens: [ownerEntry, ...tokens], minting });
    owner.close();
    server = await server.restart();
    const known = new Map<string, ReadonlySet<string>>();
    let minted = 0;
    let refused = 0;
    await assertHistories(
      400,
      [fc.constantFrom(...names), fc.array(mint, { minLength: 4, maxLength: 12 })],
      async (name, chain) => {
        let token = tokenOf(name);
        let client = await wire.connect(server.url, token);
        let allowed: ReadonlySet<string> = known.get(name) ?? (await allowedTo(client));
        known.set(name, allowed);
        let expiresMs = Number.POSITIVE_INFINITY;
        for (const { grants, lifetimeS } of chain) {
          const request = {
            grants: grants.map(({ namespace, runId, startSeqOff, permissions }) => {
              const current = startSeqs.get(`${namespace || "default"}/${runId}`) ?? 1;
              const startSeq = startSeqOff === 0 ? 0n : BigInt(Math.max(0, current + startSeqOff));
              const ancestor = runId === undefined ? undefined : { runId, startSeq };
              return { namespace, ...(ancestor && { ancestor }), permissions: [...permissions] };
            }),
            ...(lifetimeS !== undefined && { lifetime: { seconds: BigInt(lifetimeS) } }),
          };
          const answer = await client.auth.mintToken(request).catch(async (error: unknown) => {
            assert.notEqual(await reasonOf(Promise.reject(error)), Reason.UNAUTHENTICATED);
            return undefined;
          });
          if (answer === undefined) {
            refused++;
            continue;
          }
          minted++;
          ({ token } = answer);
          client.close();
          client = await wire.connect(server.url, token);
          const next = await allowedTo(client);
          const gained = [...next].filter((one) => !allowed.has(one));
          assert.deepEqual(gained, [], `gained from ${name}, policy seed ${seed}`);
          const nextMs = timestampMs(answer.expireTime!);
          assert.ok(nextMs <= expiresMs && nextMs <= Date.now() + 3_600_000);
          const who = await client.auth.whoAmI({});
          assert.equal(timestampMs(who.expireTime!), nextMs);
          assert.ok(who.identity.startsWith(`${name}>`));
          [allowed, expiresMs] = [next, nextMs];
        }
        client.close();
      },
    );
    assert.ok(minted > 0 && refused > 0, `${minted} minted, ${refused} refused`);
  });
});
