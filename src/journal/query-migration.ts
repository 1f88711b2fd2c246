import { type Kysely, sql } from "kysely";
import type { Migration } from "kysely/migration";
import { RunState } from "../../gen/runlog/v1/run_pb.js";

const isRunning = sql.raw(`state = ${RunState.RUNNING}`);

/**
 * The migration of version 0006: indexes that find runs which are RUNNING, forked or
 * limited by a retention is found without looking at anything else, and requests
 * to stop whole families, which are carried out in steps.
 */
export const queries: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .alterTable("runs")
      .addColumn("cancel_request", "bigint", (c) => c.notNull().defaultTo(0))
      .execute();
    await db.schema
      .createTable("cancellations")
      .addColumn("namespace_id", "integer", (c) => c.notNull())
      .addColumn("run_key", "bigint", (c) => c.notNull())
      .addColumn("request", "bigint", (c) => c.notNull())
      .addColumn("reason", "text", (c) => c.notNull())
      .addColumn("after_key", "bigint")
      .addColumn("through_key", "bigint", (c) => c.notNull())
      .addColumn("node_key", "integer", (c) => c.notNull().defaultTo(0))
      .addPrimaryKeyConstraint("cancellations_pk", ["namespace_id", "run_key"])
      .execute();
    // Until now every run of a family carried the request itself.
    await sql`insert into cancellations (namespace_id, run_key, request, reason, through_key)
      select namespace_id, run_key, 0, cancel_reason, run_key from runs
      where cancel_reason is not null and cancel_descendants = 1`.execute(db);
    // All partial: few runs are RUNNING, forks, kept for a time or under way.
    await sql`create index cancellations_under_way on cancellations (namespace_id, run_key)
      where after_key is not null`.execute(db);
    await sql`drop index runs_cancelled`.execute(db);
    await sql`create index runs_asked on runs (namespace_id, node_key, run_key)
      where cancel_reason is not null and ${isRunning}`.execute(db);
    await sql`create index runs_running_root on runs (namespace_id, root_key, run_key)
      where ${isRunning}`.execute(db);
    await sql`create index runs_running_node on runs (node_key, namespace_id, run_key)
      where ${isRunning}`.execute(db);
    await sql`create index runs_forks on runs (namespace_id, run_key)
      where fork_key is not null`.execute(db);
    await sql`create index namespaces_kept on namespaces (name)
      where retention_ms is not null`.execute(db);
  },
};
