/** Opens a journal by its URL; the one place that knows which databases there are. */
import { resolve } from "node:path";
import { JournalOpenError } from "../refusal.ts";
import type { Journal } from "./journal.ts";
import { PostgresHosts } from "./postgres/hosts.ts";
import { openPostgresJournal, type PostgresOptions } from "./postgres/journal.ts";
import { openSqliteJournal } from "./sqlite/journal.ts";
import type { SqliteOptions } from "./sqlite/options.ts";

/** What every kind of journal is opened with. */
export type OpenOptions = Omit<SqliteOptions, "path"> & Omit<PostgresOptions, "url">;

/**
 * Opens `sqlite:PATH` or `postgres://…`.
 *
 * @throws JournalOpenError with one line that says what to do
 */
export function openJournal(url: string, options: OpenOptions): Promise<Journal> {
  const scheme = /^([a-z]+):/.exec(url)?.[1];
  const rest = url.slice((scheme?.length ?? -1) + 1);
  if (scheme === "sqlite" && rest !== "") {
    return openSqliteJournal({ ...options, path: rest });
  }
  if (scheme === "postgres" || scheme === "postgresql") {
    return openPostgresJournal({ ...options, url });
  }
  return Promise.reject(
    new JournalOpenError(
      `cannot open journal ${JSON.stringify(url)}: write sqlite:PATH, for example sqlite:runlog.db, or postgres://USER:PASSWORD@HOST/DATABASE`,
    ),
  );
}

/** A journal's URL for people: without a password. */
export function nameOfJournal(url: string): string {
  return url.startsWith("sqlite:") ? url : new PostgresHosts(url).name;
}

/** Where a journal keeps its events, for people: the whole path of a file, the hosts of a database. */
export function placeOfJournal(url: string): string {
  return url.startsWith("sqlite:") ? resolve(url.slice("sqlite:".length)) : nameOfJournal(url);
}
