/** Opens a journal by its URL; the one place that knows which databases there are. */
import type { Journal } from "./journal.ts";
import { JournalOpenError } from "./refusal.ts";
import { openSqliteJournal } from "./sqlite.ts";

/** What every kind of journal is opened with. */
export interface OpenOptions {
  /** Milliseconds that a transaction may wait for the database's lock. */
  readonly lockTimeoutMs: number;
}

/**
 * Opens `sqlite:PATH`.
 *
 * @throws JournalOpenError with one line that says what to do
 */
export function openJournal(url: string, options: OpenOptions): Promise<Journal> {
  const scheme = /^([a-z]+):/.exec(url)?.[1];
  const rest = url.slice((scheme?.length ?? -1) + 1);
  if (scheme === "sqlite" && rest !== "") {
    return openSqliteJournal({ path: rest, lockTimeoutMs: options.lockTimeoutMs });
  }
  return Promise.reject(
    new JournalOpenError(
      `cannot open journal ${JSON.stringify(url)}: write sqlite:PATH, for example sqlite:runlog.db`,
    ),
  );
}
