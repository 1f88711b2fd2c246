/** Limits of the process: descriptors and memory. */
import { execFile } from "node:child_process";
import { readdirSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { promisify } from "node:util";
import type { Nemesis } from "./nemesis.ts";

const run = promisify(execFile);
/** Connections that take the descriptors that are left. */
const crowd = 60;

/** As good as no descriptor is left. */
export const fewFiles: Nemesis = {
  name: "few-files",
  what: "a node may open hardly any further file or connection, while many connect",
  journal: "any",
  hits: ["node"],
  mayEnd: true,
  async strike({ nodes }, { random, wait }) {
    const node = random.pick(nodes);
    const { pid } = node;
    if (pid === undefined) return;
    const open = readdirSync(`/proc/${pid}/fd`).length;
    await run("prlimit", ["--pid", `${pid}`, `--nofile=${open + random.between(2, 20)}:4096`]);
    const { hostname, port } = new URL(node.url);
    const sockets: Socket[] = [];
    for (let count = 0; count < crowd; count++) {
      const socket = connect(Number(port), hostname);
      socket.on("error", () => undefined);
      sockets.push(socket);
    }
    await wait(1_000, 3_000);
    for (const socket of sockets) socket.destroy();
    if (node.pid === pid) await run("prlimit", ["--pid", `${pid}`, "--nofile=4096:4096"]);
  },
};

/** Memory runs out: the process ends where it cannot go on, and loses nothing. */
export const littleMemory: Nemesis = {
  name: "little-memory",
  what: "a node gets no further memory from the system for a while",
  journal: "any",
  hits: ["node"],
  mayEnd: true,
  async strike({ nodes }, { random, wait }) {
    const node = random.pick(nodes);
    const { pid } = node;
    if (pid === undefined) return;
    await run("prlimit", ["--pid", `${pid}`, `--data=${2 ** 20}:unlimited`]);
    await wait(1_000, 3_000);
    if (node.pid !== pid) return;
    await run("prlimit", ["--pid", `${pid}`, "--data=unlimited"]).catch(() => undefined);
  },
};
