/**
 * Statements of one lane go over one connection as long as there are any, so that
 * they reach the server in the order in which they were asked for. Where somebody
 * else waits for a connection, a lane gives its own back before it goes on.
 */
import type { CompiledQuery, QueryResult } from "kysely";
import type { Deadline } from "../deadline.ts";
import type { PooledClient, PostgresPool } from "./pool.ts";

interface Lane {
  readonly client: Promise<PooledClient>;
  underWay: number;
  isBroken: boolean;
  /** Resolves once nothing is under way. */
  readonly ended: PromiseWithResolvers<void>;
}

/** See the head of this file. */
export class PostgresLanes {
  readonly #pool: PostgresPool;
  readonly #lanes = new Map<number, Lane>();

  constructor(pool: PostgresPool) {
    this.#pool = pool;
  }

  /**
   * Runs a statement that is a transaction of its own; the one before it in the
   * lane may not have been answered yet.
   */
  async commit<R>(key: number, query: CompiledQuery, by: Deadline): Promise<QueryResult<R>> {
    let lane = this.#lanes.get(key);
    while (lane !== undefined && this.#pool.isAwaited) {
      await lane.ended.promise;
      lane = this.#lanes.get(key);
    }
    if (lane === undefined || lane.isBroken) {
      const ended = Promise.withResolvers<void>();
      lane = { client: this.#pool.connect(by), underWay: 0, isBroken: false, ended };
      this.#lanes.set(key, lane);
    }
    lane.underWay++;
    try {
      return await this.#pool.commit<R>(await lane.client, query, by);
    } catch (error) {
      lane.isBroken = true;
      throw error;
    } finally {
      lane.underWay--;
      if (lane.underWay === 0) this.#end(key, lane);
    }
  }

  #end(key: number, lane: Lane): void {
    if (this.#lanes.get(key) === lane) this.#lanes.delete(key);
    const { client, isBroken, ended } = lane;
    client.then(
      (open) => {
        open.release(isBroken);
        ended.resolve();
      },
      // Whoever asked has been told.
      () => {
        ended.resolve();
      },
    );
  }
}
