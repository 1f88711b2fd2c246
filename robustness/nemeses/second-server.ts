/** Two servers on one SQLite file. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { link, mkdir, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import { server } from "../system/entry.ts";
import type { Nemesis } from "./nemesis.ts";

const refusesWithinMs = 20_000;

/** A second server has to refuse the file, by whatever name it is given. */
export const secondServer: Nemesis = {
  name: "second-server",
  what: "a second server is started on the journal, by its name, a symbolic and a hard link",
  journal: "sqlite",
  hits: ["node", "disk"],
  async strike({ disk: { directory, journalFile } }, { random, found }) {
    const elsewhere = join(directory, `other-${random.between(1, 1_000_000)}`);
    await mkdir(elsewhere);
    const name = join(elsewhere, "journal.db");
    const way = random.pick(["the same name", "a symbolic link", "a hard link"]);
    if (way === "a symbolic link") await symlink(journalFile, name);
    if (way === "a hard link") await link(journalFile, name);
    const path = way === "the same name" ? journalFile : name;
    const args = ["serve", "--listen", "127.0.0.1:0", "--journal", `sqlite:${path}`];
    const child = spawn(process.execPath, [server.entry, ...args], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    const timer = setTimeout(() => child.kill("SIGKILL"), refusesWithinMs);
    child.stdout.once("data", () => {
      found("a journal has one server", `a second one serves it by ${way}`);
      child.kill("SIGKILL");
    });
    await once(child, "exit");
    clearTimeout(timer);
    await rm(elsewhere, { recursive: true });
  },
};
