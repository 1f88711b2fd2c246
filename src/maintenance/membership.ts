import { hostname } from "node:os";
import pRetry from "p-retry";
import { joinFormat, ownFormat } from "../journal/formats.ts";
import type { Journal } from "../journal/journal.ts";
import {
  beatNode,
  deleteNode,
  insertNode,
  leaveNodes,
  leftBeat,
  listNodes,
  type NodeIdentity,
  type NodeRow,
} from "../journal/nodes.ts";

/** Tries to join, after the first one. */
const joinRetries = 5;
/** Milliseconds before the first of them; twice as long before each next one. */
const joinRetryMs = 50;
/** Beats within the time after which a silent node is taken for dead. */
const beatsPerTimeout = 10;

/** What the membership works with. */
export interface MembershipOptions {
  readonly journal: Journal;
  /** Milliseconds after which a silent node is taken for dead. */
  readonly nodeTimeoutMs: number;
  /** Told once others have taken this node for dead: what it had may be another's now. */
  readonly onRejoined: () => void;
  /** Called on duty when nodes have died: somebody has to look after their runs. */
  readonly onGone: () => void;
  /** Called when the database did not answer; the next beat comes anyway. */
  readonly onFailure: (error: unknown) => void;
}

/**
 * Who serves the journal. Each node moves its beat on, and watches the others':
 * one whose beat stands still is taken for dead. The oldest of those that live
 * is on duty: it takes out the dead, looks after their runs, and does what has
 * to be done from time to time.
 *
 * No clock is compared with another one. A beat stands still only for the time in
 * which the observer saw it do so, on a clock that runs only while the observer
 * does and the database answers; so a suspended observer, or an outage of the
 * database, kills nobody. Two nodes may both take themselves for the one on duty
 * for a moment: duties are decided in transactions.
 */
export class Membership implements NodeIdentity {
  readonly #options: MembershipOptions;
  readonly #observed = new Map<number, { beat: number; silentMs: number }>();
  #nodeKey: number;
  #isOnDuty = false;
  /** Whether nodes have died, or may have, since the last call. */
  #isAdoptionDue = true;
  #lastLookMs = performance.now();
  #isReachable = true;
  /** When the last beat came through. */
  #beatenMs = performance.now();
  #timer: NodeJS.Timeout | undefined;
  #beating: Promise<void> | undefined;

  private constructor(options: MembershipOptions, nodeKey: number) {
    this.#options = options;
    this.#nodeKey = nodeKey;
  }

  /** Joins the nodes of a journal. */
  static async join(options: MembershipOptions): Promise<Membership> {
    // A row of a try whose outcome is unknown is taken out as that of a dead node.
    const nodeKey = await pRetry(() => insertSelf(options.journal), {
      retries: joinRetries,
      minTimeout: joinRetryMs,
    });
    return new Membership(options, nodeKey);
  }

  get nodeKey(): number {
    return this.#nodeKey;
  }

  /** Whether this node is the one on duty. */
  get isOnDuty(): boolean {
    return this.#isOnDuty;
  }

  /** Whether the database answered last time. */
  get isReachable(): boolean {
    return this.#isReachable;
  }

  /** Milliseconds for which no beat has come through, beyond the time between two. */
  get awayMs(): number {
    return Math.max(0, performance.now() - this.#beatenMs - this.#beatMs);
  }

  /** Begins to beat. */
  start(): void {
    const beat = () => {
      this.#beating ??= this.#beat().finally(() => {
        this.#beating = undefined;
      });
    };
    this.#timer = setInterval(beat, this.#beatMs);
    beat();
  }

  /** Leaves: the others look after what this node had, without waiting. */
  async leave(): Promise<void> {
    clearInterval(this.#timer);
    await this.#beating;
    this.#isOnDuty = false;
    try {
      await this.#options.journal.write((tx) => leaveNodes(tx, this.#nodeKey));
    } catch {
      // Then they notice by its silence.
    }
  }

  get #beatMs(): number {
    return this.#options.nodeTimeoutMs / beatsPerTimeout;
  }

  async #beat(): Promise<void> {
    const { journal, onRejoined, onGone, onFailure } = this.#options;
    try {
      const isKnown = await journal.write((tx) => beatNode(tx, this.#nodeKey));
      this.#beatenMs = performance.now();
      if (!isKnown) {
        this.#nodeKey = await insertSelf(journal);
        onRejoined();
      }
      if (journal.format.isBehind) await journal.format.refresh(journal.db);
      const nodes = await listNodes(journal.db);
      const alive = await this.#takeOutDead(nodes);
      this.#isReachable = true;
      this.#isOnDuty = alive[0]?.node_key === this.#nodeKey;
      // The last older node may have stopped.
      if (this.#isOnDuty && journal.format.isBehind) {
        await journal.format.activate((work) => journal.write(work));
      }
      if (!this.#isOnDuty) {
        this.#isAdoptionDue = true;
      } else if (this.#isAdoptionDue) {
        this.#isAdoptionDue = false;
        onGone();
      }
    } catch (error) {
      this.#isReachable = false;
      this.#isAdoptionDue = true;
      // What happened meanwhile was not seen.
      this.#lastLookMs = performance.now();
      onFailure(error);
    }
  }

  /** Returns those that live. */
  async #takeOutDead(nodes: readonly NodeRow[]): Promise<readonly NodeRow[]> {
    const { journal, nodeTimeoutMs } = this.#options;
    const nowMs = performance.now();
    // A longer step means that this process did not run.
    const elapsedMs = Math.min(nowMs - this.#lastLookMs, 2 * this.#beatMs);
    this.#lastLookMs = nowMs;
    const keys = new Set(nodes.map((node) => node.node_key));
    for (const key of [...this.#observed.keys()]) {
      if (keys.has(key)) continue;
      this.#observed.delete(key);
      this.#isAdoptionDue = true;
    }
    const isGone = ({ node_key: key, beat }: NodeRow): boolean => {
      if (beat === leftBeat) return true;
      const before = this.#observed.get(key);
      const silentMs = before?.beat === beat ? before.silentMs + elapsedMs : 0;
      this.#observed.set(key, { beat, silentMs });
      return key !== this.#nodeKey && silentMs >= nodeTimeoutMs;
    };
    const gone = nodes.filter(isGone);
    const alive = nodes.filter((node) => !gone.includes(node));
    if (alive[0]?.node_key === this.#nodeKey) {
      for (const node of gone) {
        await journal.write((tx) => deleteNode(tx, node));
        this.#observed.delete(node.node_key);
        this.#isAdoptionDue = true;
      }
    }
    return alive;
  }
}

function insertSelf(journal: Journal): Promise<number> {
  return journal.write(async (tx) => {
    await joinFormat(tx);
    return insertNode(tx, `${hostname()}:${process.pid}`, ownFormat);
  });
}
