/**
 * Where the database is. A connection string may name several hosts, as libpq's
 * does (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS):
 * the one that takes writes is looked for by connecting to one after the other.
 */

import type { ClientConfig } from "pg";
import { parseIntoClientConfig } from "pg-connection-string";
import { JournalOpenError } from "./refusal.ts";

/** Hosts of a primary and its standbys; see the head of this file. */
export class PostgresHosts {
  /** The connection string without its password, for people. */
  readonly name: string;
  readonly #configs: readonly ClientConfig[];
  #current = 0;

  /**
   * @param url `postgres://user:password@host:port,host:port/database?options`
   * @throws JournalOpenError where it is no connection string
   */
  constructor(url: string) {
    const [, scheme, user = "", hosts = "", rest = ""] =
      /^(postgres(?:ql)?:\/\/)([^@/?]*@)?([^/?]*)(.*)$/s.exec(url) ?? [];
    if (scheme === undefined) throw malformed("it does not begin with postgres://");
    this.name = `${scheme}${user.replace(/:.*@/s, "@")}${hosts}${rest.replace(/\?.*/s, "")}`;
    try {
      this.#configs = hosts
        .split(",")
        .map((host) => parseIntoClientConfig(`${scheme}${user}${host}${rest}`));
    } catch (error) {
      throw malformed(error instanceof Error ? error.message : String(error));
    }
  }

  /** How many hosts there are to try. */
  get count(): number {
    return this.#configs.length;
  }

  /** How to connect to the host that is tried now. */
  get current(): ClientConfig {
    return this.#configs[this.#current]!;
  }

  /** The host that is tried now does not do: the next connection tries another. */
  rotate(from: ClientConfig): void {
    // Several connections that break at once are one reason to go on, not many.
    if (from === this.current) this.#current = (this.#current + 1) % this.#configs.length;
  }
}

function malformed(problem: string): JournalOpenError {
  return new JournalOpenError(
    `the journal's connection string is malformed (${problem}): write postgres://USER:PASSWORD@HOST:5432/DATABASE`,
  );
}
