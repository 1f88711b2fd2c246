/** Faults of the network between a node and PostgreSQL. */
import type { Random } from "../random.ts";
import type { Weather } from "../system/tcp-proxy.ts";
import type { Nemesis } from "./nemesis.ts";

function network(
  name: string,
  what: string,
  weatherOf: (random: Random) => Weather,
  lasts: { readonly minMs: number; readonly maxMs: number },
): Nemesis {
  return {
    name,
    what,
    journal: "postgres",
    hits: ["network"],
    async strike({ database: { ways } }, { random, wait }) {
      const hit = random.between(1, 3) === 1 ? ways.flat() : random.pick(ways);
      const weather = weatherOf(random);
      for (const way of hit) way.set(weather);
      await wait(lasts.minMs, lasts.maxMs);
      for (const way of hit) way.set({ t: "fine" });
    },
  };
}

/** All of them. */
export const networkNemeses: readonly Nemesis[] = [
  network(
    "network-cut",
    "connections to PostgreSQL break, and new ones are refused",
    () => ({ t: "cut" }),
    {
      minMs: 200,
      maxMs: 5_000,
    },
  ),
  network("network-hole", "what goes to and from PostgreSQL disappears", () => ({ t: "hole" }), {
    minMs: 1_000,
    maxMs: 8_000,
  }),
  network(
    "network-slow",
    "PostgreSQL is up to 300 ms away",
    (random) => ({ t: "slow", delayMs: random.between(20, 300) }),
    { minMs: 2_000, maxMs: 6_000 },
  ),
];
