/** All attacks, by name. A new one is added to one of these, and to docs/reliability.md. */
import type { Attack } from "./attack.ts";
import { bombs } from "./bombs.ts";
import { floods } from "./floods.ts";
import { fragments } from "./fragments.ts";
import { fuzzers } from "./fuzz.ts";
import { hostAttacks } from "./hosts.ts";
import { slowPeers } from "./slow.ts";

/** In the order in which they are listed. */
export const attacks: readonly Attack[] = [
  ...fragments,
  ...hostAttacks,
  ...floods,
  ...slowPeers,
  ...bombs,
  ...fuzzers,
];
