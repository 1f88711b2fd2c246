/**
 * The preloaded library, compiled once for each text of its source.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const source = join(import.meta.dirname, "disk.c");
const cache = join(import.meta.dirname, "../../node_modules/.cache/robustness");

/**
 * Compiles robustness/native/disk.c unless that has been done, and returns the path to preload.
 *
 * @throws Error where there is no gcc, or no Linux
 */
export async function buildLibrary(): Promise<string> {
  const text = await readFile(source);
  const name = createHash("sha256").update(text).digest("hex").slice(0, 16);
  const library = join(cache, `disk-${name}.so`);
  if (existsSync(library)) return library;
  await mkdir(cache, { recursive: true });
  const unfinished = `${library}.${process.pid}`;
  const flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Wno-unused-result"];
  await run("gcc", [...flags, "-o", unfinished, source, "-ldl", "-lpthread"]);
  await rename(unfinished, library);
  return library;
}
