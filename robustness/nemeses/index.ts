/** All nemeses, by name. A new one is added here, and to docs/reliability.md. */
import { clockJump } from "./clock.ts";
import { diskFailures, fullDisk, postgresFullDisk, slowSyncs } from "./disk-failures.ts";
import type { Nemesis } from "./nemesis.ts";
import { networkNemeses } from "./network.ts";
import { postgresNemeses } from "./postgres.ts";
import { powerLoss } from "./power-loss.ts";
import { drain, kill, killStarting, suspend } from "./processes.ts";
import { fewFiles, littleMemory } from "./resources.ts";
import { secondServer } from "./second-server.ts";

/** In the order in which they are listed. */
export const nemeses: readonly Nemesis[] = [
  kill,
  suspend,
  killStarting,
  drain,
  fewFiles,
  littleMemory,
  powerLoss,
  ...diskFailures,
  slowSyncs,
  fullDisk,
  clockJump,
  secondServer,
  ...postgresNemeses,
  postgresFullDisk,
  ...networkNemeses,
];
