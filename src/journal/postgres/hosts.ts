import type { ClientConfig } from "pg";
import { parseIntoClientConfig } from "pg-connection-string";
import { JournalOpenError } from "../../refusal.ts";

/** One host, since it was last found not to take writes. */
export interface PostgresHost {
  readonly config: ClientConfig;
}

/**
 * The hosts of a primary and its standbys. A connection string may name several,
 * as libpq's does (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS):
 * connections try one after the other until one takes writes.
 */
export class PostgresHosts {
  /** The connection string without its password, for people. */
  readonly name: string;
  readonly #hosts: PostgresHost[];
  #index = 0;

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
      this.#hosts = hosts
        .split(",")
        .map((host) => ({ config: parseIntoClientConfig(`${scheme}${user}${host}${rest}`) }));
    } catch (error) {
      throw malformed(error instanceof Error ? error.message : String(error));
    }
  }

  /** How many hosts there are to try. */
  get count(): number {
    return this.#hosts.length;
  }

  /** The host that is tried now; a connection to another one is not used again. */
  get current(): PostgresHost {
    return this.#hosts[this.#index]!;
  }

  /** A connection to a host broke, or did not come about: the next one tries another host. */
  rotate(from: PostgresHost): void {
    // Several connections that break at once are one reason to go on, not many.
    if (from === this.current) this.#index = (this.#index + 1) % this.#hosts.length;
  }

  /**
   * A host takes no writes: none of the connections to it is used again, and the
   * next one tries another host. The same name may lead to another server by then.
   */
  leave(from: PostgresHost): void {
    if (from !== this.current) return;
    this.#hosts[this.#index] = { config: from.config };
    this.#index = (this.#index + 1) % this.#hosts.length;
  }
}

function malformed(problem: string): JournalOpenError {
  return new JournalOpenError(
    `the journal's connection string is malformed (${problem}): write postgres://USER:PASSWORD@HOST:5432/DATABASE`,
  );
}
