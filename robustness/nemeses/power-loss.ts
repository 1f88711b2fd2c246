/** Power losses. */
import { losePower } from "../native/power-loss.ts";
import type { Nemesis } from "./nemesis.ts";

/** See `losePower`. */
export const powerLoss: Nemesis = {
  name: "power-loss",
  what: "kill -9, and what was not synced is lost, or some pages of it",
  journal: "sqlite",
  hits: ["node", "disk"],
  async strike({ nodes, disk }, { random, wait }) {
    const [node] = nodes;
    if (node === undefined) return;
    // Slow syncs leave more that is not synced.
    disk.control.slowSyncs(random.pick([0, 5, 40]));
    await wait(200, 800);
    await node.end("SIGKILL");
    disk.control.heal();
    losePower(disk.undoDirectory, random.pick(["lost", "some pages kept"]), random);
    await node.start();
  },
};
