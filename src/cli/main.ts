#!/usr/bin/env node
/**
 * The command `runlog`.
 *
 * Invariant: nothing else is loaded before the version of Node is known to
 * do, so that an old one gets one clear line instead of a syntax error.
 */
const requiredMajor = 24;

if (Number.parseInt(process.versions.node, 10) < requiredMajor) {
  console.error(
    `runlog: needs Node ${requiredMajor} or newer, this is Node ${process.versions.node}`,
  );
  process.exit(1);
}

const { runProgram } = await import("./program.ts");
process.exit(await runProgram(process.argv));
