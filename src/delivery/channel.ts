/** The records of a run, of a family or of all in a tail, and who waits for more of them. */
import type { CommittedRecord } from "../journal/committed-record.ts";
import { Deque } from "./deque.ts";

/** Called when something may have become durable that a scope wants. It carries no data. */
export type Wake = () => void;

/** Channels by the id of a run; each is there while there is something in it. */
export type Channels = Map<string, Channel>;

/** What most channels have: one that holds records of a run costs no set. */
const nobody: ReadonlySet<Wake> = new Set();

/** See the head of this file. */
export class Channel {
  readonly records = new Deque<CommittedRecord>();
  readonly #runId: string;
  readonly #channels: Channels | undefined;
  #wakes: Set<Wake> | undefined;

  /** @param channels where it is found, if it is not always there */
  constructor(runId = "", channels?: Channels) {
    this.#runId = runId;
    this.#channels = channels;
  }

  /** Those who wait. */
  get wakes(): ReadonlySet<Wake> {
    return this.#wakes ?? nobody;
  }

  /** Waits. */
  watch(wake: Wake): void {
    this.#wakes ??= new Set();
    this.#wakes.add(wake);
  }

  /** Does not wait any more. */
  unwatch(wake: Wake): void {
    this.#wakes?.delete(wake);
  }

  /** Goes where there is nothing in it any more. */
  leaveIfEmpty(): void {
    if (this.records.length > 0 || this.wakes.size > 0) return;
    if (this.#channels?.get(this.#runId) === this) this.#channels.delete(this.#runId);
  }
}

/** The channel of a run, made where there is none. */
export function channelOf(channels: Channels, runId: string): Channel {
  let channel = channels.get(runId);
  if (channel === undefined) {
    channel = new Channel(runId, channels);
    channels.set(runId, channel);
  }
  return channel;
}
