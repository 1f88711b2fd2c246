import type { Random } from "../random.ts";
import type { JournalKind, Needs, System } from "../system/system.ts";

/** What a nemesis has beside the system. */
export interface Strike {
  readonly random: Random;
  /** Resolves after a time that is chosen between two, in milliseconds. */
  wait(minMs: number, maxMs: number): Promise<void>;
  /** Whether nothing else is made meanwhile. */
  readonly isAlone: boolean;
  /** Writes down that a promise is broken that only this nemesis can see. */
  found(promise: string, what: string): void;
}

type SystemOf<Kind extends JournalKind> = Extract<System, { kind: Kind }>;

/** A part of a system. */
type Hit = "node" | "disk" | "database" | "network";

interface Common {
  /** In kebab-case; as it is named on the command line. */
  readonly name: string;
  /** One line. */
  readonly what: string;
  readonly needs?: Needs;
  /** What it changes: two that change the same are not made at once. */
  readonly hits: readonly Hit[];
  /** Whether servers may end by themselves meanwhile, to be started again by their supervisor. */
  readonly mayEnd?: boolean;
}

/**
 * What a nemesis is: one kind of fault, from its begin to its end.
 *
 * When `strike` resolves, the fault is over.
 */
export type Nemesis = Common &
  (
    | {
        readonly journal: "sqlite";
        strike(system: SystemOf<"sqlite">, strike: Strike): Promise<void>;
      }
    | {
        readonly journal: "postgres";
        strike(system: SystemOf<"postgres">, strike: Strike): Promise<void>;
      }
    | { readonly journal: "any"; strike(system: System, strike: Strike): Promise<void> }
  );
