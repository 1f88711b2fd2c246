/** The PostgreSQL that tests share, however many processes run them. */
import { PostgresServer } from "../../dev/postgres-server.ts";

/** The port of a server that runs already. */
export const portVariable = "RUNLOG_TEST_POSTGRES_PORT";

/** Starts a server as the tests share it. */
export function startSharedServer(): Promise<PostgresServer> {
  // A crash of the machine is not what these tests are about.
  return PostgresServer.start({ settings: { fsync: "off", max_connections: "500" } });
}
