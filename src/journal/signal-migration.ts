import { fromBinary } from "@bufbuild/protobuf";
import { type Kysely, type SqlBool, sql } from "kysely";
import type { Migration } from "kysely/migration";
import { RunSpecSchema } from "../../gen/runlog/v1/run_pb.js";
import { hasPendingSignals, isOpen } from "./run-conditions.ts";
import type { Db } from "./schema.ts";

/** Runs whose specs are read at once. */
const stepRuns = 500;

/**
 * The migration of version 0010: signals to runs, runs that wait, and what runs are
 * listed by besides.
 *
 * @param bytes what the database calls the type
 */
export function signals(bytes: "blob" | "bytea"): Migration {
  return {
    async up(db: Kysely<unknown>): Promise<void> {
      for (const column of ["waiting_count", "signal_count"]) {
        await db.schema
          .alterTable("namespaces")
          .addColumn(column, "bigint", (c) => c.notNull().defaultTo(0))
          .execute();
      }
      for (const column of ["last_signal_seq", "handled_signal_seq"]) {
        await db.schema
          .alterTable("runs")
          .addColumn(column, "bigint", (c) => c.notNull().defaultTo(0))
          .execute();
      }
      await db.schema.alterTable("runs").addColumn("waiting", sql.raw(bytes)).execute();
      await db.schema.alterTable("runs").addColumn("wait_deadline_ms", "bigint").execute();
      await db.schema
        .alterTable("runs")
        .addColumn("agent_id", "text", (c) => c.notNull().defaultTo(""))
        .execute();
      await fillAgentIds(db as unknown as Db);
      await db.schema
        .createTable("signals")
        .addColumn("namespace_id", "integer", (c) => c.notNull())
        .addColumn("run_key", "bigint", (c) => c.notNull())
        .addColumn("signal_id", "text", (c) => c.notNull())
        .addColumn("signal_seq", "bigint", (c) => c.notNull())
        .addColumn("seq", "bigint", (c) => c.notNull())
        .addColumn("digest", sql.raw(bytes), (c) => c.notNull())
        .addPrimaryKeyConstraint("signals_pk", ["namespace_id", "run_key", "signal_id"])
        .execute();
      await db.schema
        .createIndex("signals_order")
        .on("signals")
        .columns(["namespace_id", "run_key", "signal_seq"])
        .execute();
      await db.schema
        .createIndex("runs_agent_id")
        .on("runs")
        .columns(["namespace_id", "agent_id", "run_key"])
        .execute();
      // All partial: few runs are open, have a deadline or pending signals.
      await sql`create index runs_open_root on runs (namespace_id, root_key, run_key)
        where ${isOpen}`.execute(db);
      await sql`create index runs_pending on runs (namespace_id, run_key)
        where ${hasPendingSignals}`.execute(db);
      await sql`create index runs_pending_node on runs (namespace_id, node_key, run_key)
        where ${hasPendingSignals} and ${isOpen}`.execute(db);
      await sql`create index runs_wait_deadline on runs (wait_deadline_ms, namespace_id, run_key)
        where wait_deadline_ms is not null`.execute(db);
      // SQLite compares by bytes anyway: so a prefix of ids is a range of the index.
      if (bytes === "bytea") {
        await sql`alter table runs alter column run_id type text collate "C"`.execute(db);
      }
    },
  };
}

/** Takes the agents out of the specs of runs, in steps. */
async function fillAgentIds(db: Db): Promise<void> {
  for (let after: readonly [number, number] = [0, 0]; ; ) {
    const rows = await db
      .selectFrom("runs")
      .select(["namespace_id", "run_key", "spec"])
      .where(sql<SqlBool>`(namespace_id, run_key) > (${after[0]}, ${after[1]})`)
      .orderBy("namespace_id")
      .orderBy("run_key")
      .limit(stepRuns)
      .execute();
    for (const { namespace_id: namespaceId, run_key: runKey, spec } of rows) {
      const { agentId } = fromBinary(RunSpecSchema, spec);
      if (agentId === "") continue;
      await db
        .updateTable("runs")
        .set({ agent_id: agentId })
        .where("namespace_id", "=", namespaceId)
        .where("run_key", "=", runKey)
        .execute();
    }
    const last = rows.at(-1);
    if (last === undefined || rows.length < stepRuns) return;
    after = [last.namespace_id, last.run_key];
  }
}
