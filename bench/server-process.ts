/** Servers in processes of their own. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const main = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));

/** A server that listens. */
export interface BenchServer {
  readonly url: string;
  /** Lets it end. */
  stop(): Promise<void>;
}

/** Starts `runlog serve` on a journal. */
export async function startServer(journal: string): Promise<BenchServer> {
  const args = [main, "serve", "--listen", "127.0.0.1:0", "--journal", journal];
  const server = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(createInterface({ input: server.stdout }), "line")) as [string];
  return {
    url: line.replace("listening on ", ""),
    async stop() {
      server.kill("SIGTERM");
      await once(server, "close");
    },
  };
}
