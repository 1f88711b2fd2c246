/** AuthService: who calls, and tokens with some of what the caller may do. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, durationMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  type AuthService,
  type Grant as GrantMessage,
  type GrantSchema,
  type MintTokenRequest,
  Permission as PermissionEnum,
  WhoAmIResponseSchema,
} from "../../gen/runlog/v1/auth_pb.js";
import { findRunPlace, type RunPlace } from "../delivery/run-directory.ts";
import type { Journal } from "../journal/journal.ts";
import { maxGrants, maxReadableNamespaces } from "../limits.ts";
import { readNamespaceNames } from "../maintenance/namespace-directory.ts";
import { invalidField, RefusedError } from "../refusal.ts";
import type { Subtree } from "../subtree.ts";
import { checkHolderName, checkNamespace, checkPlace, checkRunId } from "../validate.ts";
import type { Access } from "./auth/access.ts";
import { identityOfSource } from "./auth/caller.ts";
import {
  everyNamespace,
  type Grant,
  type Permission,
  permissions,
  type Rights,
} from "./auth/rights.ts";
import { type ServiceContext, unary } from "./service-context.ts";

const permissionOf = {
  [PermissionEnum.INGEST]: "ingest",
  [PermissionEnum.READ]: "read",
  [PermissionEnum.SIGNAL]: "signal",
  [PermissionEnum.CANCEL]: "cancel",
  [PermissionEnum.ADMIN]: "admin",
} as const satisfies Partial<Record<PermissionEnum, Permission>>;

const messageOf: Readonly<Record<Permission, PermissionEnum>> = {
  ingest: PermissionEnum.INGEST,
  read: PermissionEnum.READ,
  signal: PermissionEnum.SIGNAL,
  cancel: PermissionEnum.CANCEL,
  admin: PermissionEnum.ADMIN,
};

/** Milliseconds that a minted token lasts at least, if so much is asked for. */
const minLifetimeMs = 1_000;

/**
 * Implements AuthService.
 *
 * @param access undefined: the server does not authenticate
 */
export function authService(
  context: ServiceContext,
  access: Access | undefined,
): ServiceImpl<typeof AuthService> {
  const { journal } = context;
  return {
    whoAmI: unary(context, async (_request, _, { identity, rights, origin, expiresAtMs }) => {
      const readable = rights.readableNamespaces();
      const names = await readNamespaceNames(journal, maxReadableNamespaces + 1, readable);
      return create(WhoAmIResponseSchema, {
        identity,
        mintedFrom: origin?.restsOn === undefined ? "" : identityOfSource(origin.source),
        grants: rights.grants.map(toGrant),
        ...(expiresAtMs !== undefined && { expireTime: timestampFromMs(expiresAtMs) }),
        readableNamespaces: names.slice(0, maxReadableNamespaces),
        moreReadableNamespaces: names.length > maxReadableNamespaces,
      });
    }),
    mintToken: unary(context, async (request, _, caller) => {
      if (access?.publicKeys === undefined) {
        const authenticates = access !== undefined;
        throw new RefusedError({ reason: "minting_unavailable", authenticates });
      }
      const { name } = request;
      checkHolderName("name", name);
      const lifetimeMs = parseLifetime(request);
      const wanted = parseGrants(request);
      const held = new HeldRights(journal, caller.rights);
      const grants: Grant[] = [];
      for (const one of wanted) grants.push(await held.find(one));
      const { restsOn } = held;
      const minted = await access.mint(caller, { grants, restsOn, lifetimeMs, name });
      return {
        token: minted.token,
        expireTime: timestampFromMs(minted.expiresAtMs),
        identity: minted.identity,
        grants: grants.map(toGrant),
        lifetime: durationFromMs(minted.lifetimeMs),
      };
    }),
  };
}

/** Finds what a caller may hand on, and which of its grants give it that; reads each run once. */
class HeldRights {
  readonly #journal: Journal;
  readonly #rights: Rights;
  /** By namespace and subtree. */
  readonly #restsOn = new Map<string, Grant>();
  /** By namespace and id. */
  readonly #places = new Map<string, Promise<RunPlace | undefined>>();

  constructor(journal: Journal, rights: Rights) {
    this.#journal = journal;
    this.#rights = rights;
  }

  /** The caller's own grants that give all that was found. */
  get restsOn(): readonly Grant[] {
    return [...this.#restsOn.values()];
  }

  /**
   * Finds a grant among the caller's rights.
   *
   * @returns the grant, about the run that has the id now
   * @throws RefusedError permission where the caller has none of it in the namespace, or not
   *   in the whole of it; run_not_found for an ancestor that is not there for the caller
   */
  async find(grant: Grant): Promise<Grant> {
    const { namespace, subtree, permissions: wanted } = grant;
    for (const permission of wanted) {
      if (subtree === undefined) this.#rights.requireWhole(permission, namespace);
      // Refuses a permission that the caller has nowhere.
      else this.#rights.within(permission, namespace);
    }
    const place = subtree && (await this.#placeOf(namespace, subtree));
    for (const permission of wanted) {
      const own = this.#rights.grantsFor(permission, namespace);
      const by =
        own.find((one) => one.subtree === undefined) ??
        own.find((one) => place?.subtrees.includes(one.subtree!));
      if (by === undefined) {
        throw new RefusedError({ reason: "run_not_found", runId: subtree?.runId ?? "" });
      }
      this.#note(by, permission);
    }
    if (subtree === undefined || place === undefined) return grant;
    return { ...grant, subtree: { runId: subtree.runId, startSeq: place.startSeq } };
  }

  /** @throws RefusedError run_not_found */
  async #placeOf(namespace: string, { runId, startSeq }: Subtree): Promise<RunPlace> {
    const key = JSON.stringify([namespace, runId]);
    const own = permissions.flatMap((one) => this.#rights.grantsFor(one, namespace));
    const subtrees = new Set(own.map(({ subtree }) => subtree).filter((one) => one !== undefined));
    const finding =
      this.#places.get(key) ?? findRunPlace(this.#journal, namespace, runId, [...subtrees]);
    this.#places.set(key, finding);
    const place = await finding;
    if (place !== undefined && (startSeq === 0 || startSeq === place.startSeq)) return place;
    throw new RefusedError({ reason: "run_not_found", runId });
  }

  #note({ namespace, subtree }: Grant, permission: Permission): void {
    const key = JSON.stringify([namespace, subtree?.runId, subtree?.startSeq]);
    const before = this.#restsOn.get(key)?.permissions ?? [];
    const given = before.includes(permission) ? before : [...before, permission];
    this.#restsOn.set(key, { namespace, subtree, permissions: given });
  }
}

function parseGrants({ grants }: MintTokenRequest): readonly Grant[] {
  if (grants.length === 0) throw invalidField("grants", "is missing");
  if (grants.length > maxGrants) {
    throw invalidField("grants", `has more than ${maxGrants} grants`, maxGrants);
  }
  return grants.map((grant, index) => parseGrant(`grants[${index}]`, grant));
}

function parseGrant(
  field: string,
  { namespace: name, ancestor, permissions }: GrantMessage,
): Grant {
  const namespace = name === everyNamespace ? name : checkNamespace(`${field}.namespace`, name);
  if (permissions.length === 0) throw invalidField(`${field}.permissions`, "is missing");
  const parsed = permissions.map((one, index) =>
    parsePermission(`${field}.permissions[${index}]`, one),
  );
  if (ancestor !== undefined && namespace === everyNamespace) {
    throw invalidField(`${field}.ancestor`, "is a run of one namespace: name it");
  }
  const subtree = ancestor && {
    runId: ancestor.runId,
    startSeq: checkPlace(`${field}.ancestor.start_seq`, ancestor.startSeq),
  };
  if (subtree !== undefined) checkRunId(`${field}.ancestor.run_id`, subtree.runId);
  return { namespace, subtree, permissions: [...new Set(parsed)] };
}

function parsePermission(field: string, value: PermissionEnum): Permission {
  const found = Object.hasOwn(permissionOf, value)
    ? permissionOf[value as keyof typeof permissionOf]
    : undefined;
  if (found !== undefined) return found;
  throw invalidField(field, `has the unknown value ${value}`);
}

/** Milliseconds; undefined: as long as it may. */
function parseLifetime({ lifetime }: MintTokenRequest): number | undefined {
  if (lifetime === undefined) return undefined;
  const lifetimeMs = durationMs(lifetime);
  if (lifetimeMs >= minLifetimeMs) return lifetimeMs;
  throw invalidField("lifetime", "must be 1 s or more: leave it out for as long as allowed");
}

function toGrant({ namespace, subtree, permissions }: Grant): MessageInitShape<typeof GrantSchema> {
  const ancestor = subtree && { runId: subtree.runId, startSeq: BigInt(subtree.startSeq) };
  return {
    namespace,
    ...(ancestor && { ancestor }),
    permissions: permissions.map((one) => messageOf[one]),
  };
}
