import type { CompiledQuery, QueryResult } from "kysely";
import type { Deadline } from "../deadline.ts";
import type { PooledClient, PostgresPool } from "./pool.ts";

interface Pipeline {
  readonly client: Promise<PooledClient>;
  underWay: number;
  isBroken: boolean;
  /** Resolves once nothing is under way. */
  readonly ended: PromiseWithResolvers<void>;
}

/**
 * Statements of one pipeline go over one connection as long as there are any, so that
 * they reach the server in the order in which they were asked for. Where somebody
 * else waits for a connection, a pipeline gives its own back before it goes on.
 */
export class PostgresPipelines {
  readonly #pool: PostgresPool;
  readonly #pipelines = new Map<number, Pipeline>();

  constructor(pool: PostgresPool) {
    this.#pool = pool;
  }

  /**
   * Runs a statement that is a transaction of its own; the one before it in the
   * pipeline may not have been answered yet.
   */
  async commit<R>(key: number, query: CompiledQuery, by: Deadline): Promise<QueryResult<R>> {
    let pipeline = this.#pipelines.get(key);
    while (pipeline !== undefined && this.#pool.isAwaited) {
      await pipeline.ended.promise;
      pipeline = this.#pipelines.get(key);
    }
    if (pipeline === undefined || pipeline.isBroken) {
      const ended = Promise.withResolvers<void>();
      pipeline = { client: this.#pool.connect(by), underWay: 0, isBroken: false, ended };
      this.#pipelines.set(key, pipeline);
    }
    pipeline.underWay++;
    try {
      return await this.#pool.commit<R>(await pipeline.client, query, by);
    } catch (error) {
      pipeline.isBroken = true;
      throw error;
    } finally {
      pipeline.underWay--;
      if (pipeline.underWay === 0) this.#end(key, pipeline);
    }
  }

  #end(key: number, pipeline: Pipeline): void {
    if (this.#pipelines.get(key) === pipeline) this.#pipelines.delete(key);
    const { client, isBroken, ended } = pipeline;
    client.then(
      (open) => {
        open.release(isBroken);
        ended.resolve();
      },
      // The caller has its answer.
      () => {
        ended.resolve();
      },
    );
  }
}
