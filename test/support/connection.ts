/** A producer's connection in this process: an Ingest stream without the wire. */
import assert from "node:assert/strict";
import type { IngestRequest } from "../../gen/runlog/v1/ingest_pb.js";
import type { IngestFrame } from "../../src/ingest/frames.ts";
import { IngestStream } from "../../src/ingest/ingest-stream.ts";
import { type Engine, toIngestBytes } from "./engine.ts";

/** Requests are handed over one by one, answers are noted. */
export class Connection {
  /** The answers. */
  readonly frames: IngestFrame[] = [];
  /** Resolves with what the stream failed with. */
  readonly ended: Promise<unknown>;
  #next: PromiseWithResolvers<IngestRequest | undefined> = Promise.withResolvers();
  #asked: PromiseWithResolvers<void> = Promise.withResolvers();
  #noted: PromiseWithResolvers<void> = Promise.withResolvers();

  constructor(engine: Pick<Engine, "journal" | "committer" | "memory" | "limits" | "usage">) {
    const frames = new IngestStream(engine).run(toIngestBytes(this.#requests()));
    this.ended = this.#note(frames).catch((error: unknown) => error);
  }

  async *#requests(): AsyncGenerator<IngestRequest> {
    for (;;) {
      this.#asked.resolve();
      const request = await this.#next.promise;
      if (request === undefined) return;
      this.#next = Promise.withResolvers();
      yield request;
    }
  }

  async #note(batches: AsyncGenerator<IngestFrame[]>): Promise<undefined> {
    for await (const frames of batches) {
      this.frames.push(...frames);
      this.#noted.resolve();
      this.#noted = Promise.withResolvers();
    }
    return undefined;
  }

  /** Resolves when the server has taken the request and asks for the next. */
  async send(request: IngestRequest): Promise<void> {
    await this.#asked.promise;
    this.#asked = Promise.withResolvers();
    this.#next.resolve(request);
    await this.#asked.promise;
  }

  /** Resolves once the answers are as they are waited for. */
  async until(isThere: () => boolean): Promise<void> {
    while (!isThere()) await this.#noted.promise;
  }

  /** Ends the requests; resolves when the answers have ended too. */
  async halfClose(): Promise<void> {
    await this.#asked.promise;
    this.#next.resolve(undefined);
    assert.equal(await this.ended, undefined);
  }

  /** Breaks; resolves when the server has noticed. */
  async lose(): Promise<void> {
    await this.#asked.promise;
    const lost = new Error("the connection is lost");
    this.#next.reject(lost);
    assert.equal(await this.ended, lost);
  }
}
