/** Several nodes on one PostgreSQL, in this process: each has connections and a domain of its own. */
import type { Journal } from "../../src/journal/journal.ts";
import { openJournal } from "../../src/journal/open.ts";
import type { Notifications } from "../../src/journal/postgres/notifications.ts";
import { defaultLimits, type Limits } from "../../src/limits.ts";
import { type Engine, openEngine } from "../../src/server/engine.ts";
import { giveBackDatabase, takeDatabase } from "./postgres.ts";

/** A test's nodes. */
export interface TestNodes {
  /** The connection string of their database. */
  readonly url: string;
  readonly nodes: readonly Engine[];
  /** What went wrong beside all calls, at any of them. */
  readonly failures: readonly unknown[];
  /** Starts another one. */
  add(): Promise<Engine>;
  /** Ends a node as a crash does: it says nothing to anybody. */
  crash(node: Engine): Promise<void>;
  /** Stops all of them and removes what they stored. */
  remove(): Promise<void>;
}

/** What differs from the usual. */
export interface TestNodesOptions {
  readonly limits?: Partial<Limits>;
  /** Changes how nodes wake each other. */
  readonly notifications?: (notifications: Notifications) => Notifications;
  /** Changes what becomes of the nodes' transactions. */
  readonly faults?: (journal: Journal) => Journal;
}

/** A node's own clock, which nobody may go by. */
function wrongClock(): number {
  return Date.now() + 86_400_000;
}

/** Nodes do not hear each other at all. */
export function deaf(notifications: Notifications): Notifications {
  return {
    isConnected: false,
    tell: () => undefined,
    listen: () => void notifications,
  };
}

/** Each second wake-up is lost, and nobody knows. */
export function lossy(notifications: Notifications): Notifications {
  let told = 0;
  return {
    get isConnected() {
      return notifications.isConnected;
    },
    tell: (namespace) => {
      if (told++ % 2 === 0) notifications.tell(namespace);
    },
    listen: (onNews) => {
      notifications.listen(onNews);
    },
  };
}

/** Starts nodes. */
export async function startNodes(
  count: number,
  { limits = {}, notifications = (same) => same, faults = (same) => same }: TestNodesOptions = {},
): Promise<TestNodes> {
  const url = await takeDatabase();
  const all: Limits = {
    ...defaultLimits,
    databaseConnections: 3,
    pollIntervalMs: 10,
    nodeTimeoutMs: 1_000,
    ...limits,
  };
  const failures: unknown[] = [];
  const open = new Set<Engine>();
  const add = async (): Promise<Engine> => {
    const opened = await openJournal(url, all);
    const journal = faults({ ...opened, notifications: notifications(opened.notifications!) });
    const onFailure = (error: unknown) => {
      if (open.has(node)) failures.push(error);
    };
    const node = await openEngine({ journal, limits: all, now: wrongClock, onFailure });
    open.add(node);
    node.start();
    return node;
  };
  const nodes: Engine[] = [];
  for (let i = 0; i < count; i++) nodes.push(await add());
  return {
    url,
    nodes,
    failures,
    add,
    async crash(node) {
      open.delete(node);
      // Without its connections it neither beats nor leaves.
      await node.journal.close();
      await node.stop();
    },
    async remove() {
      for (const node of open) {
        await node.stop();
        await node.journal.close();
      }
      await giveBackDatabase(url);
    },
  };
}
