/** What Mocha does before and after files that run in parallel. */
import type { PostgresServer } from "../../dev/postgres-server.ts";
import { portVariable, startSharedServer } from "./shared-server.ts";

let server: PostgresServer | undefined;

/** Starts the PostgreSQL that all workers share. */
export async function mochaGlobalSetup(): Promise<void> {
  server = await startSharedServer();
  process.env[portVariable] = String(server.port);
}

/** Stops it. */
export async function mochaGlobalTeardown(): Promise<void> {
  await server?.remove();
}
