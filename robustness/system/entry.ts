/** What a server process is started with. */
import { join } from "node:path";

/** The command line's entry: of this checkout, unless the rig is to try another one. */
export const server: { entry: string } = {
  entry: join(import.meta.dirname, "../../src/cli/main.ts"),
};
