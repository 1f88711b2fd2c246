/** What an attack is. */
import type { Random } from "../random.ts";

/** What an attack has. */
export interface Target {
  readonly host: string;
  readonly port: number;
  readonly url: string;
  readonly random: Random;
  /** Aborted when the attack has to be over: whoever waits for it returns at once. */
  readonly over: AbortSignal;
  /** A run with many bytes, for subscribers that do not read them. */
  readonly largeRun: string;
  /** Writes down an answer that nobody may get. */
  found(what: string): void;
}

/** One way to treat a server badly. */
export interface Attack {
  /** In kebab-case. */
  readonly name: string;
  /** One line. */
  readonly what: string;
  /** Attacks until it has done everything, or `target.over`; leaves nothing open. */
  run(target: Target): Promise<void>;
}
