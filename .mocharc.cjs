const { globSync } = require("node:fs");
const { enableCompileCache } = require("node:module");
const { availableParallelism } = require("node:os");

// Node strips the types by itself, once for all the processes and threads that tests start.
process.env.NODE_COMPILE_CACHE ??= `${__dirname}/node_modules/.cache/compile`;
enableCompileCache();

// In CI nothing is left out: no .only, no skip.
const inCi = Boolean(process.env.CI);

const settings = {
  extension: ["ts"],
  // Tests share the cores of a machine that may be slow.
  timeout: 180_000,
  forbidOnly: inCi,
  forbidPending: inCi,
  require: [`${__dirname}/test/support/nothing-left.ts`],
};

/**
 * All files, side by side; those of the folders that take longest begin first. test/faults
 * needs more than npm, as mesh/ does: npm run test:faults.
 */
function everything() {
  const longest = ["property", "crash", "client", "cli", "nodes", "server"];
  const isShort = (file) => !longest.includes(file.split("/")[1]);
  const exclude = ["test/faults/**"];
  const files = globSync("test/**/*.test.ts", { cwd: __dirname, exclude }).sort();
  return {
    ...settings,
    spec: files.sort((a, b) => isShort(a) - isShort(b)),
    parallel: true,
    // Many tests wait for other processes: two more than there are cores, at most 6.
    jobs: Math.min(availableParallelism() + 2, 6),
    require: [`${__dirname}/test/support/parallel.ts`, ...settings.require],
  };
}

// Mocha adds the files that it is given to those that stand here: name some, and only they
// run, in one process. Other configurations name theirs.
const namesFiles = process.argv
  .slice(2)
  .some((argument) => /\.test\.ts$|^--(spec|config)\b/.test(argument));

module.exports = namesFiles ? settings : everything();
