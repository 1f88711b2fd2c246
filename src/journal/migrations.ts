/**
 * The migrations: append-only, never edited once released, the same for every
 * database. A database that names one which is not here was written by a newer
 * runlog and is refused before anything is touched.
 */
import { type Kysely, sql } from "kysely";
import { type Migration, Migrator } from "kysely/migration";
import { RunState } from "../../gen/runlog/v1/run_pb.js";
import { JournalOpenError } from "./refusal.ts";

/** What the databases call the types that differ. */
export interface ColumnTypes {
  readonly bytes: "blob" | "bytea";
}

function initial(types: ColumnTypes): Migration {
  return {
    async up(db: Kysely<unknown>): Promise<void> {
      await db.schema
        .createTable("journal")
        .addColumn("only_row", "integer", (c) => c.primaryKey())
        .addColumn("journal_id", "text", (c) => c.notNull())
        .execute();
      await db.schema
        .createTable("namespaces")
        .addColumn("namespace_id", "integer", (c) => c.primaryKey())
        .addColumn("name", "text", (c) => c.notNull().unique())
        .addColumn("last_seq", "bigint", (c) => c.notNull())
        .addColumn("trimmed_seq", "bigint", (c) => c.notNull())
        .addColumn("last_time_ms", "bigint", (c) => c.notNull())
        .addColumn("retention_ms", "bigint")
        .addColumn("create_time_ms", "bigint", (c) => c.notNull())
        .execute();
      await db.schema
        .createTable("runs")
        .addColumn("namespace_id", "integer", (c) => c.notNull())
        .addColumn("run_key", "bigint", (c) => c.notNull())
        .addColumn("run_id", "text", (c) => c.notNull())
        .addColumn("parent_key", "bigint")
        .addColumn("root_key", "bigint", (c) => c.notNull())
        .addColumn("depth", "integer", (c) => c.notNull())
        .addColumn("conversation_id", "text", (c) => c.notNull())
        .addColumn("spec", sql.raw(types.bytes), (c) => c.notNull())
        .addColumn("fork_key", "bigint")
        .addColumn("fork_run_seq", "bigint")
        .addColumn("create_time_ms", "bigint", (c) => c.notNull())
        .addColumn("epoch", "bigint", (c) => c.notNull())
        .addColumn("state", "integer", (c) => c.notNull())
        .addColumn("last_run_seq", "bigint", (c) => c.notNull())
        .addColumn("last_event_seq", "bigint", (c) => c.notNull())
        .addColumn("last_seq", "bigint", (c) => c.notNull())
        .addColumn("event_bytes", "bigint", (c) => c.notNull())
        .addColumn("result", sql.raw(types.bytes))
        .addColumn("end_time_ms", "bigint")
        .addPrimaryKeyConstraint("runs_pk", ["namespace_id", "run_key"])
        .addUniqueConstraint("runs_run_id", ["namespace_id", "run_id"])
        .execute();
      for (const column of ["parent_key", "conversation_id", "state"]) {
        await db.schema
          .createIndex(`runs_${column}`)
          .on("runs")
          .columns(["namespace_id", column, "run_key"])
          .execute();
      }
      await db.schema
        .createTable("run_ancestors")
        .addColumn("namespace_id", "integer", (c) => c.notNull())
        .addColumn("ancestor_key", "bigint", (c) => c.notNull())
        .addColumn("run_key", "bigint", (c) => c.notNull())
        .addColumn("depth", "integer", (c) => c.notNull())
        // With the depth, so that a family is read from this index alone.
        .addPrimaryKeyConstraint("run_ancestors_pk", [
          "namespace_id",
          "ancestor_key",
          "run_key",
          "depth",
        ])
        .execute();
      await db.schema
        .createIndex("run_ancestors_run")
        .on("run_ancestors")
        .columns(["namespace_id", "run_key", "depth", "ancestor_key"])
        .execute();
      await db.schema
        .createTable("run_labels")
        .addColumn("namespace_id", "integer", (c) => c.notNull())
        .addColumn("label_key", "text", (c) => c.notNull())
        .addColumn("label_value", "text", (c) => c.notNull())
        .addColumn("run_key", "bigint", (c) => c.notNull())
        .addPrimaryKeyConstraint("run_labels_pk", [
          "namespace_id",
          "label_key",
          "label_value",
          "run_key",
        ])
        .execute();
      await db.schema
        .createTable("records")
        .addColumn("namespace_id", "integer", (c) => c.notNull())
        .addColumn("last_seq", "bigint", (c) => c.notNull())
        .addColumn("event_count", "integer", (c) => c.notNull())
        .addColumn("run_key", "bigint", (c) => c.notNull())
        .addColumn("root_key", "bigint", (c) => c.notNull())
        .addColumn("first_run_seq", "bigint", (c) => c.notNull())
        .addColumn("types", "text", (c) => c.notNull())
        .addColumn("size", "integer", (c) => c.notNull())
        .addColumn("data", sql.raw(types.bytes), (c) => c.notNull())
        .addPrimaryKeyConstraint("records_pk", ["namespace_id", "last_seq"])
        .execute();
      await db.schema
        .createIndex("records_run")
        .on("records")
        .columns(["namespace_id", "run_key", "last_seq", "size"])
        .execute();
      await db.schema
        .createIndex("records_root")
        .on("records")
        .columns(["namespace_id", "root_key", "last_seq", "run_key", "size"])
        .execute();
    },
  };
}

/** Cancellation, deletion of trees, and the counts that namespaces are listed with. */
const lifecycle: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    // One column a statement: SQLite adds no two at once.
    await db.schema.alterTable("runs").addColumn("cancel_reason", "text").execute();
    await db.schema
      .alterTable("runs")
      .addColumn("cancel_descendants", "integer", (c) => c.notNull().defaultTo(0))
      .execute();
    for (const column of ["deletion_count", "run_count", "running_count", "event_bytes"]) {
      await db.schema
        .alterTable("namespaces")
        .addColumn(column, "bigint", (c) => c.notNull().defaultTo(0))
        .execute();
    }
    await sql`
      update namespaces set
        run_count = (select count(*) from runs r where r.namespace_id = namespaces.namespace_id),
        running_count = (select count(*) from runs r
          where r.namespace_id = namespaces.namespace_id and r.state = ${RunState.RUNNING}),
        event_bytes = (select coalesce(sum(r.event_bytes), 0) from runs r
          where r.namespace_id = namespaces.namespace_id)`.execute(db);
    await db.schema
      .createTable("deletions")
      .addColumn("namespace_id", "integer", (c) => c.notNull())
      .addColumn("root_key", "bigint", (c) => c.notNull())
      .addPrimaryKeyConstraint("deletions_pk", ["namespace_id", "root_key"])
      .execute();
    await db.schema
      .createIndex("run_labels_run")
      .on("run_labels")
      .columns(["namespace_id", "run_key"])
      .execute();
    // Partial: most runs are no forks, and only roots are looked for by their end.
    await sql`create index runs_fork_key on runs (namespace_id, fork_key)
      where fork_key is not null`.execute(db);
    await sql`create index runs_root_end on runs (namespace_id, end_time_ms, run_key)
      where parent_key is null and end_time_ms is not null`.execute(db);
  },
};

/** Every migration by its name; they run in the order of their names. */
function migrations(types: ColumnTypes): Record<string, Migration> {
  return { "0001_initial": initial(types), "0002_lifecycle": lifecycle };
}

/**
 * Refuses a database that this version must not touch; it only reads.
 *
 * @param name what people call the database
 * @throws JournalOpenError where the tables are a newer runlog's or somebody else's
 */
export async function refuseForeign(name: string, db: Kysely<never>): Promise<void> {
  const tables = await db.introspection.getTables({ withInternalKyselyTables: true });
  if (!tables.some((table) => table.name === "kysely_migration")) {
    const [stranger] = tables;
    if (stranger === undefined) return;
    throw new JournalOpenError(
      `${name} holds tables that are not runlog's (${stranger.name}, …): name another database`,
    );
  }
  const known = migrations({ bytes: "blob" });
  const { rows } = await sql<{ name: string }>`select name from kysely_migration`.execute(db);
  const newer = rows.find((row) => !(row.name in known));
  if (newer !== undefined) {
    throw new JournalOpenError(
      `${name} was written by a newer runlog (it has migration ${newer.name}): upgrade runlog`,
    );
  }
}

/**
 * Brings the database to this version's tables. Safe when several processes do
 * it at once: Kysely's migrator takes the database's own lock.
 */
export async function migrate(db: Kysely<never>, types: ColumnTypes): Promise<void> {
  const provider = { getMigrations: () => Promise.resolve(migrations(types)) };
  const { error } = await new Migrator({ db, provider }).migrateToLatest();
  if (error === undefined) return;
  throw error instanceof Error ? error : new Error("a migration failed", { cause: error });
}
