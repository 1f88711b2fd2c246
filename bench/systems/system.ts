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

/** How events come to be that are written one at a time. */
export interface Emission {
  /** Of each stream. */
  readonly eventsEach: number;
  /**
   * Of each stream at once. With 1 the next event is written once the one before
   * is acknowledged; with more, a stream writes one in each turn of the event
   * loop, as long as there are fewer.
   */
  readonly unacked: number;
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
  /** Writes to each of many streams, an event at a time. Resolves when all are acknowledged. */
  writeEach(streams: readonly string[], payloads: Payloads, emission: Emission): Promise<void>;
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
  { eventsEach, unacked }: Emission,
): Promise<void> {
  await Promise.all(
    streams.map(async (stream) => {
      const underWay: Promise<void>[] = [];
      for (let n = 1; n <= eventsEach; n++) {
        // Answers come in order.
        if (underWay.length === unacked) await underWay.shift();
        underWay.push(writeOne(stream, payloads.of(n)));
        if (unacked > 1) await nextEmission();
      }
      await Promise.all(underWay);
    }),
  );
}

let emission: Promise<void> | undefined;

/** The next turn of the event loop, in which every stream writes its next event. */
export function nextEmission(): Promise<void> {
  emission ??= new Promise((resolve) => {
    setImmediate(() => {
      emission = undefined;
      resolve();
    });
  });
  return emission;
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
