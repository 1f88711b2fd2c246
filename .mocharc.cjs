const { enableCompileCache } = require("node:module");

// Node strips the types by itself, once for all the processes and threads that tests start.
process.env.NODE_COMPILE_CACHE ??= `${__dirname}/node_modules/.cache/compile`;
enableCompileCache();

// In CI nothing is left out: no .only, no skip.
const inCi = Boolean(process.env.CI);

// Mocha adds the files that it is given to those that stand here: name some, and only they run.
const namesFiles = process.argv.slice(2).some((argument) => /\.test\.ts$|^--spec\b/.test(argument));

module.exports = {
  ...(namesFiles ? {} : { spec: ["test/**/*.test.ts"] }),
  extension: ["ts"],
  timeout: 60_000,
  parallel: false,
  forbidOnly: inCi,
  forbidPending: inCi,
};
