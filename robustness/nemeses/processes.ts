/** Faults of server processes. */
import type { Nemesis } from "./nemesis.ts";

/** kill -9 under load. */
export const kill: Nemesis = {
  name: "kill",
  what: "kill -9 of a node, which comes back",
  journal: "any",
  hits: ["node"],
  async strike({ nodes }, { random, wait }) {
    const node = random.pick(nodes);
    await node.end("SIGKILL");
    await wait(0, 1_000);
    await node.start();
  },
};

/** SIGSTOP and SIGCONT. */
export const suspend: Nemesis = {
  name: "suspend",
  what: "SIGSTOP of a node for up to 6 s, longer than the others wait for it",
  journal: "any",
  hits: ["node"],
  async strike({ nodes }, { random, wait }) {
    const node = random.pick(nodes);
    node.signal("SIGSTOP");
    await wait(500, 6_000);
    node.signal("SIGCONT");
  },
};

/** kill -9 at any moment of the start. */
export const killStarting: Nemesis = {
  name: "kill-starting",
  what: "kill -9 of a node several times while it starts",
  journal: "any",
  hits: ["node"],
  async strike({ nodes }, { random, wait }) {
    const node = random.pick(nodes);
    await node.end("SIGKILL");
    for (let times = random.between(2, 4); times > 0; times--) {
      node.launch();
      await wait(50, 900);
      await node.end("SIGKILL");
    }
    await node.start();
  },
};

/** SIGTERM. */
export const drain: Nemesis = {
  name: "drain",
  what: "SIGTERM of a node, as in every deployment",
  journal: "any",
  hits: ["node"],
  async strike({ nodes }, { random, found }) {
    const node = random.pick(nodes);
    const beganMs = performance.now();
    await node.end("SIGTERM");
    const tookMs = Math.round(performance.now() - beganMs);
    if (tookMs > 11_000) found("a drain is over within 10 s", `${node.name} took ${tookMs} ms`);
    await node.start();
  },
};
