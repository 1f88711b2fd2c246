/**
 * The process group of a command: the command and what it started, but for what has
 * made a group of its own (setsid, a shell's job control).
 *
 * Invariant: whoever is left in the group can be signalled and waited for, also once
 * the command itself has ended.
 */
import { readdirSync, readFileSync } from "node:fs";

/** A process group, by the pid of its leader. */
export class ProcessGroup {
  readonly #id: number;

  constructor(id: number) {
    this.#id = id;
  }

  /** Sends a signal to all of it; false where nobody is left. */
  kill(signal: NodeJS.Signals): boolean {
    try {
      return process.kill(-this.#id, signal);
    } catch (error) {
      // EPERM: a member has become another user's, and the others have got the signal.
      return (error as NodeJS.ErrnoException).code === "EPERM";
    }
  }

  /** Whether a process of it still runs. */
  get isAlive(): boolean {
    try {
      process.kill(-this.#id, 0);
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === "EPERM";
    }
    // A zombie counts for kill until its parent looks at it, which in a container may be never.
    return process.platform !== "linux" || this.#hasRunningMember();
  }

  #hasRunningMember(): boolean {
    return readdirSync("/proc").some((name) => /^\d+$/.test(name) && this.#isMember(name));
  }

  #isMember(pid: string): boolean {
    try {
      // pid (comm) state ppid pgrp …; comm may hold anything, so count from its end.
      const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
      const [state, , group] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      return Number(group) === this.#id && state !== "Z" && state !== "X";
    } catch {
      // It has ended meanwhile.
      return false;
    }
  }
}
