/** What is measured: runlog, and each of its peers, behind the same few calls. */
import type { Payloads } from "../payloads.ts";

/** A server in a process of its own. */
export interface SystemServer {
  readonly url: string;
  /** Its process; absent where there is none. */
  readonly pid?: number | undefined;
  /** Ends it. */
  stop(): Promise<void>;
}

/** Told of each event, in the order of their arrival; its number is in it. */
export type OnEvent = (n: number) => void;

/** A subscription that is attached. */
export interface Following {
  /** Rejects where it broke. */
  readonly failed: Promise<never>;
  stop(): Promise<void>;
}

/** A client as its users have it, in a process of its own. */
export interface SystemClient {
  /**
   * Writes events numbered from `first` on to a stream, as fast as they are
   * taken, `perAppend` together. Resolves when all are acknowledged.
   */
  write(
    stream: string,
    payloads: Payloads,
    events: { readonly first: number; readonly count: number; readonly perAppend: number },
  ): Promise<void>;
  /** Writes to each of many streams one event after the other, the next once the one before is acknowledged. */
  writeEach(streams: readonly string[], payloads: Payloads, eventsEach: number): Promise<void>;
  /** Reads so many events of a stream from its beginning. */
  read(stream: string, count: number, onEvent: OnEvent): Promise<void>;
  /** Follows what is written to a stream from now on; resolves once nothing can be missed. */
  follow(stream: string, onEvent: OnEvent): Promise<Following>;
  /** Writes one event; resolves when it is acknowledged. */
  writeOne(stream: string, payload: Buffer): Promise<void>;
  close(): Promise<void>;
}

/** SystemClient.writeEach, where each event is a call of its own. */
export async function writeEachBy(
  writeOne: SystemClient["writeOne"],
  streams: readonly string[],
  payloads: Payloads,
  eventsEach: number,
): Promise<void> {
  await Promise.all(
    streams.map(async (stream) => {
      for (let n = 1; n <= eventsEach; n++) await writeOne(stream, payloads.of(n));
    }),
  );
}

/** Something to be measured. A bare loop has only the calls that it is the limit of. */
export interface System {
  readonly name: string;
  /** What has happened to an event once it is acknowledged. */
  readonly durability: string;
  /** What is missing to run it here, and how to get it. */
  missing?(): string | undefined;
  /** Starts its server on an empty directory. */
  start(directory: string): Promise<SystemServer>;
  /** Connects to it. */
  connect(url: string): Promise<Partial<SystemClient>>;
}
