/**
 * Which versions of runlog may use a journal together. Migrations only add; a record that is written
 * into the new places is a new *format*, and begins once the journal's format is activated.
 * See docs/changing-the-journal.md.
 */
import type { Kysely } from "kysely";
import { JournalOpenError } from "../refusal.ts";
import { leftBeat } from "./nodes.ts";
import type { Db, Schema } from "./schema.ts";

/** The newest format that this version reads and writes. */
export const ownFormat = 2;

/** The format from which on there are signals, and runs that wait. */
export const inputFormat = 2;

/** What a format asks of those who use a journal in which it is active, by their own format. */
interface FormatRule {
  /** The least that may read it. */
  readonly minReader: number;
  /** The least that may write it: every server writes. */
  readonly minWriter: number;
}

/** Every format by its number, 1 and on; append-only. */
const rules: readonly FormatRule[] = [
  // Producers' attempts, checksums, the indexes of lists.
  { minReader: 1, minWriter: 1 },
  // Signals, and runs that wait: an older version takes such a run for one that has ended.
  { minReader: 1, minWriter: 2 },
];

/** The migration that journals have formats from. */
export const formatsMigration = "0007_formats";

/** A journal's format, as this process knows it. */
export class JournalFormat {
  readonly #isHeld: boolean;
  #active: number;

  /**
   * @param active the journal's
   * @param isHeld whether this process leaves it as it is
   */
  constructor(active: number, isHeld: boolean) {
    this.#active = active;
    this.#isHeld = isHeld;
  }

  /** The newest format that may be written. It grows while a journal is open, and never shrinks. */
  get active(): number {
    return this.#active;
  }

  /** Whether this version can write more than the journal's format allows. */
  get isBehind(): boolean {
    return this.#active < ownFormat;
  }

  /** Reads what other nodes have activated. */
  async refresh(db: Db): Promise<void> {
    this.#active = Math.max(this.#active, (await readFormat(db)).format);
  }

  /**
   * Activates this version's format, unless an older node is there or it is held.
   *
   * @param write runs a transaction
   */
  async activate(write: (work: (tx: Db) => Promise<number>) => Promise<number>): Promise<void> {
    if (!this.#isHeld && this.isBehind) this.#active = await write(activateFormat);
  }
}

/** Refuses a journal that this version must not write. */
export async function checkFormat(name: string, db: Kysely<Schema>): Promise<void> {
  const { format, min_writer: minWriter } = await readFormat(db);
  if (minWriter <= ownFormat) return;
  throw new JournalOpenError(
    `${name} is in format ${format}, and this runlog writes formats up to ${ownFormat}: upgrade runlog`,
  );
}

/**
 * A journal's format for a process that opens it: activated, unless an older node is there.
 *
 * @param isHeld leaves it as it is, so that the version before can still be started
 */
export async function openFormat(tx: Db, isHeld: boolean): Promise<JournalFormat> {
  const active = isHeld ? (await readFormat(tx)).format : await activateFormat(tx);
  return new JournalFormat(active, isHeld);
}

function readFormat(db: Db) {
  return db
    .selectFrom("journal")
    .select(["format", "min_writer"])
    .executeTakeFirst()
    .then((row) => row ?? { format: 0, min_writer: 0 });
}

/**
 * Activates this version's format, where no older node is there. Nodes that join hold
 * the journal's row as well (`joinFormat`), so none comes in between.
 *
 * @returns the journal's format from now on
 */
async function activateFormat(tx: Db): Promise<number> {
  const { format } = await tx
    .updateTable("journal")
    .set((eb) => ({ format: eb.ref("format") }))
    .returning("format")
    .executeTakeFirstOrThrow();
  if (format >= ownFormat) return format;
  const older = await tx
    .selectFrom("nodes")
    .select("node_key")
    .where("format", "<", ownFormat)
    .where("beat", "!=", leftBeat)
    .executeTakeFirst();
  if (older !== undefined) return format;
  const { minReader, minWriter } = rules[ownFormat - 1]!;
  await tx
    .updateTable("journal")
    .set({ format: ownFormat, min_reader: minReader, min_writer: minWriter })
    .execute();
  return ownFormat;
}

/**
 * Holds the journal's format until the transaction's end, for a node that joins.
 *
 * @throws JournalOpenError where this version must not write it any more
 */
export async function joinFormat(tx: Db): Promise<void> {
  await tx
    .updateTable("journal")
    .set((eb) => ({ format: eb.ref("format") }))
    .execute();
  await checkFormat("the journal", tx);
}
