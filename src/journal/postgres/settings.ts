/**
 * What the server is set to for our sessions and transactions, whatever its
 * configuration, the role and the database say by then.
 */
import type { Deadline } from "../deadline.ts";
import type { PostgresClient, ServerSettings } from "./client.ts";

/** Milliseconds that statements may take. */
export interface PostgresTimeouts {
  /** For one lock, and for a client that does not go on with its transaction. */
  readonly lockTimeoutMs: number;
  /** For one statement, waiting for locks included. */
  readonly statementTimeoutMs: number;
}

/** The oldest server that ends a transaction by its age. */
const transactionTimeoutVersion = 170_000;

/**
 * Commits wait for the disk, and for a synchronous standby. The value is looked
 * up anew by each transaction: one that waits for more is left as it is.
 */
export const waitForStandby =
  "set_config('synchronous_commit', case current_setting('synchronous_commit') when 'remote_apply' then 'remote_apply' else 'on' end, true)";

/** A commit tells by a warning that it has not waited, so warnings must reach us. */
export const sendWarnings = "set_config('client_min_messages', 'warning', true)";

/** Settings of a session that is ours alone. */
export function sessionSettings(timeouts: PostgresTimeouts): ServerSettings {
  const { lockTimeoutMs, statementTimeoutMs } = timeouts;
  return {
    ...guards(timeouts),
    lock_timeout: lockTimeoutMs,
    statement_timeout: statementTimeoutMs,
  };
}

/**
 * Begins a transaction that is over by the deadline, in which `waitForStandby`
 * holds. LOCAL, so that a pooler hands nothing on to the connection's next user.
 */
export function beginText(
  { peer }: Pick<PostgresClient, "peer">,
  timeouts: PostgresTimeouts,
  { leftMs }: Deadline,
): string {
  const settings: ServerSettings = {
    ...(peer.isPooled && guards(timeouts)),
    lock_timeout: Math.min(timeouts.lockTimeoutMs, leftMs),
    statement_timeout: Math.min(timeouts.statementTimeoutMs, leftMs),
    ...(peer.version >= transactionTimeoutVersion && { transaction_timeout: leftMs }),
  };
  return `begin; ${local(settings)}; select ${waitForStandby}`;
}

/** Begins a transaction that only reads, where the session is not ours. */
export function beginReadText(timeouts: PostgresTimeouts, { leftMs }: Deadline): string {
  return `begin; ${local({ statement_timeout: Math.min(timeouts.statementTimeoutMs, leftMs) })}`;
}

/** What bounds a client that was suspended, or cut off, while it has a lock. */
function guards({ lockTimeoutMs }: PostgresTimeouts): ServerSettings {
  return {
    client_min_messages: "warning",
    idle_in_transaction_session_timeout: lockTimeoutMs,
    // While the server sends, and nobody takes it, no other time runs.
    tcp_user_timeout: lockTimeoutMs,
  };
}

function local(settings: ServerSettings): string {
  const set = Object.entries(settings).map(([name, value]) => `set local ${name} = ${value}`);
  return set.join("; ");
}
