/**
 * Knows when nothing more comes by itself: no journal that a test opened is
 * being asked anything, for some turns of the event loop.
 */
import type { KyselyPlugin } from "kysely";
import type { Journal } from "../../src/journal/journal.ts";
import type { Db } from "../../src/journal/schema.ts";

/** Turns after which whoever was answered has asked the next thing, if there is one. */
const quietTurns = 10;
/** What each journal that is open was asked and has not answered. */
const journals = new Set<{ asked: number }>();

/** Counts what goes to a journal. */
export function counted(journal: Journal): Journal {
  const count = { asked: 0 };
  journals.add(count);
  const plugin: KyselyPlugin = {
    transformQuery({ node }) {
      count.asked++;
      return node;
    },
    transformResult({ result }) {
      count.asked--;
      return Promise.resolve(result);
    },
  };
  const asking = async <T>(answer: () => Promise<T>): Promise<T> => {
    count.asked++;
    try {
      return await answer();
    } finally {
      count.asked--;
    }
  };
  // Of a query that was compiled before, the plugin sees the result only.
  const seenBy = (db: Db): Db => {
    const seen = db.withPlugin(plugin);
    const execute = seen.executeQuery.bind(seen);
    seen.executeQuery = (query) => {
      count.asked++;
      return execute(query);
    };
    return seen;
  };
  const { append } = journal;
  return {
    ...journal,
    db: seenBy(journal.db),
    scans: seenBy(journal.scans),
    write: (work, withinMs) => asking(() => journal.write(work, withinMs)),
    ...(append && { append: (what) => asking(() => append(what)) }),
    close() {
      // Who is left reading is answered by an error, which is not counted.
      journals.delete(count);
      return journal.close();
    },
  };
}

/** Resolves once nothing more comes, or `until` holds. */
export async function quiet(until: () => boolean = () => false): Promise<void> {
  for (let turns = 0; turns < quietTurns && !until(); turns++) {
    await new Promise((resolve) => setImmediate(resolve));
    if ([...journals].some(({ asked }) => asked > 0)) turns = 0;
  }
}
