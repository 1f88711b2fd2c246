import type { NamespaceRow } from "./namespaces.ts";

/** What was seen of a namespace and is durable. */
export type SeenNamespace = Pick<
  NamespaceRow,
  "namespace_id" | "version" | "append_id" | "last_seq"
>;

/** A namespace that went back from one newest seq to a lower one. */
export class WentBackError extends Error {
  readonly namespace: string;

  constructor(namespace: string, fromSeq: number, toSeq: number) {
    super(
      `the database has gone back: namespace ${JSON.stringify(namespace)} was at seq ${fromSeq} and is at ${toSeq}; it was restored, or a standby was promoted that had not received everything`,
    );
    this.name = "WentBackError";
    this.namespace = namespace;
  }
}

/** Called before anybody reads the namespace again; in memory, all at once. */
export type OnBack = (error: WentBackError) => void;

/** Namespaces that are kept in mind; those that were seen last. One costs about 200 bytes. */
const maxSeen = 16_384;

/**
 * Notices that the database went back in time: it was restored, or a standby was
 * promoted that had not received everything. What a node keeps of a namespace
 * then may never have happened.
 *
 * A namespace's version and its newest seq only grow. So a row that was asked for
 * once another had been seen is not behind it, and one that is was not written by
 * the history that this node knows. Answers overtake each other, so a row is
 * compared with what had been seen before it was asked for.
 */
export class History {
  readonly #seen = new Map<string, SeenNamespace>();
  readonly #onBack: OnBack[] = [];
  readonly #backs = new Map<string, number>();
  #backCount = 0;

  /** Has somebody drop what it keeps. */
  onBack(listener: OnBack): void {
    this.#onBack.push(listener);
  }

  /** How many times any namespace went back: while it stays the same, none did. */
  get backCount(): number {
    return this.#backCount;
  }

  /** How many times a namespace went back. */
  backsOf(namespace: string): number {
    return this.#backs.get(namespace) ?? 0;
  }

  /** Remembers a namespace's newest state. */
  note(row: NamespaceRow): void {
    const { name, namespace_id, version, append_id, last_seq } = row;
    const known = this.#seen.get(name);
    if (known !== undefined && known.version > version) return;
    // Last in the map: seen last.
    this.#seen.delete(name);
    this.#seen.set(name, { namespace_id, version, append_id, last_seq });
    if (this.#seen.size <= maxSeen) return;
    for (const oldest of this.#seen.keys()) {
      this.#seen.delete(oldest);
      return;
    }
  }

  /** Reads a namespace. */
  async read(
    name: string,
    find: () => Promise<NamespaceRow | undefined>,
  ): Promise<NamespaceRow | undefined> {
    const before = this.#seen.get(name);
    let row = await find();
    // Asked once more: what answered may have been left behind by a promotion.
    if (this.#isDoubtful(name, row, before)) row = await find();
    this.#take(name, row, before);
    return row;
  }

  /** Reads namespaces, of which those that do not exist are missing. */
  async readAll(
    names: readonly string[],
    find: (names: readonly string[]) => Promise<readonly NamespaceRow[]>,
  ): Promise<readonly NamespaceRow[]> {
    const before = new Map(names.map((name) => [name, this.#seen.get(name)]));
    const rows = new Map((await find(names)).map((row) => [row.name, row]));
    const doubtful = names.filter((name) =>
      this.#isDoubtful(name, rows.get(name), before.get(name)),
    );
    if (doubtful.length > 0) {
      for (const name of doubtful) rows.delete(name);
      for (const row of await find(doubtful)) rows.set(row.name, row);
    }
    for (const name of names) this.#take(name, rows.get(name), before.get(name));
    return [...rows.values()];
  }

  /** Compares a row that a transaction has locked and not changed yet: none is newer. */
  locked(row: NamespaceRow): void {
    const seen = this.#seen.get(row.name);
    // Its own lock is counted.
    const before = { ...row, version: row.version - 1 };
    if (isBehind(before, seen)) this.#goBack(row.name, row.last_seq);
  }

  #isDoubtful(
    name: string,
    row: NamespaceRow | undefined,
    before: SeenNamespace | undefined,
  ): boolean {
    return isBehind(row, before) || isOther(row, this.#seen.get(name));
  }

  #take(name: string, row: NamespaceRow | undefined, before: SeenNamespace | undefined): void {
    const seen = this.#seen.get(name);
    const isKnown = seen?.version === before?.version;
    // Else somebody else has noticed it, or has a newer one by now, which says it at its next look.
    if ((isKnown && isBehind(row, before)) || isOther(row, seen)) {
      this.#goBack(name, row?.last_seq ?? 0);
    }
    if (row !== undefined) this.note(row);
  }

  #goBack(name: string, latestSeq: number): void {
    const error = new WentBackError(name, this.#seen.get(name)!.last_seq, latestSeq);
    this.#seen.delete(name);
    this.#backCount++;
    this.#backs.set(name, this.backsOf(name) + 1);
    for (const listener of this.#onBack) listener(error);
  }
}

/** Whether a row is older than, or of another history than, the newest one seen. */
function isBehind(row: SeenNamespace | undefined, seen: SeenNamespace | undefined): boolean {
  if (seen === undefined) return false;
  if (row === undefined || row.namespace_id !== seen.namespace_id) return true;
  if (isOther(row, seen)) return true;
  return row.version < seen.version || row.last_seq < seen.last_seq;
}

/** Whether two rows are of two histories with as many transactions; whichever was asked for first. */
function isOther(row: SeenNamespace | undefined, seen: SeenNamespace | undefined): boolean {
  if (row === undefined || seen === undefined) return false;
  return row.version === seen.version && row.append_id !== seen.append_id;
}
