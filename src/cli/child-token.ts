/**
 * The token that exec gives its command: for its own run and what it starts, in a file that
 * nobody else may read.
 *
 * Invariants: the command gets no right that it does not need, and never exec's own token. As
 * long as it runs the file holds a token that counts, unless the server does not make one; the
 * file goes with exec.
 */
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { createClient, type Transport } from "@connectrpc/connect";
import {
  AuthService,
  type Grant,
  type MintTokenResponse,
  Permission,
} from "../../gen/runlog/v1/auth_pb.js";
import { startTimer } from "../timers.ts";
import { type ConnectionFlags, callServer, type ServerFlags } from "./connection.ts";
import { explain, reasonOf } from "./failure.ts";
import { notice } from "./output.ts";

/** The part of a token's life after which it is renewed. */
const renewAfter = 2 / 3;
/** Milliseconds until it is renewed, at least. */
const minPauseMs = 1_000;
/** Milliseconds from a try to renew it that failed to the next. */
const retryMs = 5_000;
/** Milliseconds that one try may take. */
const tryTimeoutMs = 10_000;

/** What to make it for. */
interface Holder {
  readonly runId: string;
  readonly transport: Transport;
}

/** A token in a file. */
export class ChildToken {
  /** Its path. */
  readonly file: string;
  readonly #directory: string;
  readonly #transport: Transport;
  readonly #name: string;
  readonly #grants: readonly Grant[];
  readonly #over = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #hasTold = false;

  private constructor({ transport, runId }: Holder, first: MintTokenResponse) {
    this.#transport = transport;
    this.#name = nameOf(runId);
    // With the run's start_seq: a run that gets the id later is not this command's.
    this.#grants = first.grants;
    this.#directory = mkdtempSync(join(tmpdir(), "runlog-token-"));
    this.file = join(this.#directory, "token");
    process.once("exit", this.#removeFile);
    this.#take(first);
  }

  /**
   * Makes a token for a run; undefined where this process shows none itself, so that the server
   * does not ask for one, or where the server makes none, which it says.
   *
   * @throws the system's error where the file cannot be written
   */
  static async make(holder: Holder, flags: ConnectionFlags): Promise<ChildToken | undefined> {
    if (!showsCredentials(flags)) return undefined;
    let first: MintTokenResponse;
    try {
      first = await mintFirst(holder, flags);
    } catch (error) {
      notice(`the command gets no token: ${explain(error)}`);
      return undefined;
    }
    return new ChildToken(holder, first);
  }

  /** Removes the file, and renews it no more. */
  remove(): void {
    this.#over.abort();
    clearTimeout(this.#timer);
    process.off("exit", this.#removeFile);
    this.#removeFile();
  }

  readonly #removeFile = (): void => {
    rmSync(this.#directory, { recursive: true, force: true });
  };

  #take({ token, lifetime }: MintTokenResponse): void {
    // In one go: a reader of the file finds a whole token.
    const next = `${this.file}.new`;
    writeFileSync(next, `${token}\n`, { mode: 0o600 });
    renameSync(next, this.file);
    this.#hasTold = false;
    const lifetimeMs = lifetime === undefined ? 0 : durationMs(lifetime);
    this.#renewIn(Math.max(minPauseMs, lifetimeMs * renewAfter));
  }

  #renewIn(ms: number): void {
    this.#timer = startTimer(() => void this.#renew(), ms).unref();
  }

  /** Never rejects. */
  async #renew(): Promise<void> {
    const { signal } = this.#over;
    try {
      const client = createClient(AuthService, this.#transport);
      const request = { grants: [...this.#grants], name: this.#name };
      const answer = await client.mintToken(request, { signal, timeoutMs: tryTimeoutMs });
      if (!signal.aborted) this.#take(answer);
    } catch (error) {
      if (signal.aborted) return;
      // The sender tells of a server that is away; this may be for its own reasons.
      if (!this.#hasTold) notice(`the command's token is not renewed yet: ${explain(error)}`);
      this.#hasTold = true;
      this.#renewIn(retryMs);
    }
  }
}

function showsCredentials({ token, tokenFile, cert, header }: ServerFlags): boolean {
  return [token, tokenFile, cert, header?.["authorization"]].some((one) => one !== undefined);
}

async function mintFirst(
  { transport, runId }: Holder,
  flags: ConnectionFlags,
): Promise<MintTokenResponse> {
  const client = createClient(AuthService, transport);
  const mint = (permissions: Permission[]) => {
    const grant = { namespace: flags.namespace, ancestor: { runId }, permissions };
    const request = { grants: [grant], name: nameOf(runId) };
    return callServer(flags, (options) => client.mintToken(request, options));
  };
  try {
    return await mint([Permission.INGEST, Permission.READ]);
  } catch (error) {
    if (reasonOf(error) !== "PERMISSION") throw error;
    // A caller that may only write hands on that.
    return mint([Permission.INGEST]);
  }
}

/** A name cannot contain what separates names. */
function nameOf(runId: string): string {
  return runId.replaceAll(">", "-");
}
