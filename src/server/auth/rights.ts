/** What a caller may do: permissions in namespaces, or in subtrees of their runs. */
import { RefusedError } from "../../refusal.ts";
import type { Subtree, Within } from "../../subtree.ts";

/** What can be permitted. */
export const permissions = ["ingest", "read", "signal", "cancel", "admin"] as const;

/** One of them. */
export type Permission = (typeof permissions)[number];

/** Stands for every namespace. */
export const everyNamespace = "*";

/** Some permissions somewhere. */
export interface Grant {
  /** A name, or `*`. */
  readonly namespace: string;
  /** Undefined: the whole namespace. */
  readonly subtree: Subtree | undefined;
  readonly permissions: readonly Permission[];
}

/** All grants of one caller. Never changes: a caller whose rights change gets other ones. */
export class Rights {
  readonly #grants: readonly Grant[];

  constructor(grants: readonly Grant[]) {
    this.#grants = grants;
  }

  /**
   * Where a caller has a permission in a namespace. Depends on the token alone,
   * never on what exists.
   *
   * @throws RefusedError permission where the caller has it nowhere
   */
  within(permission: Permission, namespace: string): Within {
    const grants = this.grantsFor(permission, namespace);
    if (grants.length === 0) throw missing(permission, `in namespace ${JSON.stringify(namespace)}`);
    const subtrees = grants.map(({ subtree }) => subtree).filter((one) => one !== undefined);
    return subtrees.length < grants.length ? undefined : subtrees;
  }

  /** All of them. */
  get grants(): readonly Grant[] {
    return this.#grants;
  }

  /**
   * The grants that give a permission in a namespace, or in parts of it.
   *
   * @param namespace `*`: those that give it in every one
   */
  grantsFor(permission: Permission, namespace: string): readonly Grant[] {
    return this.#grants.filter(
      (grant) => grant.permissions.includes(permission) && isFor(grant, namespace),
    );
  }

  /**
   * Makes sure that a caller has a permission in a whole namespace.
   *
   * @throws RefusedError permission
   */
  requireWhole(permission: Permission, namespace: string): void {
    if (this.within(permission, namespace) === undefined) return;
    throw missing(permission, `in all of namespace ${JSON.stringify(namespace)}`);
  }

  /**
   * The namespaces in which a caller has a permission as a whole; undefined: in every one.
   *
   * @throws RefusedError permission where there is none
   */
  namespacesOf(permission: Permission): readonly string[] | undefined {
    const names = this.#grants
      .filter((grant) => grant.permissions.includes(permission) && grant.subtree === undefined)
      .map((grant) => grant.namespace);
    if (names.length === 0) throw missing(permission, "in any namespace");
    return names.includes(everyNamespace) ? undefined : [...new Set(names)];
  }

  /** The namespaces in which a caller may read, or read some runs; undefined: in every one. */
  readableNamespaces(): readonly string[] | undefined {
    const names = this.#grants
      .filter(({ permissions: given }) => given.includes("read"))
      .map(({ namespace }) => namespace);
    return names.includes(everyNamespace) ? undefined : [...new Set(names)];
  }

  /** Whether everything that `other` permits is permitted by this too, grant by grant. */
  includes(other: Rights): boolean {
    return other.#grants.every((theirs) =>
      theirs.permissions.every((permission) =>
        this.#grants.some(
          (ours) =>
            ours.permissions.includes(permission) &&
            isFor(ours, theirs.namespace) &&
            (ours.subtree === undefined || isSame(ours.subtree, theirs.subtree)),
        ),
      ),
    );
  }
}

/** Everything everywhere: what anybody may who can reach a server without authentication. */
export const allRights = new Rights([
  { namespace: everyNamespace, subtree: undefined, permissions },
]);

function isFor({ namespace }: Grant, wanted: string): boolean {
  return namespace === everyNamespace || namespace === wanted;
}

function isSame(some: Subtree, other: Subtree | undefined): boolean {
  return some.runId === other?.runId && some.startSeq === other.startSeq;
}

function missing(permission: Permission, where: string): RefusedError {
  const problem = `the token or certificate does not give the permission ${JSON.stringify(permission)} ${where}: use one that does`;
  return new RefusedError({ reason: "permission", problem });
}
