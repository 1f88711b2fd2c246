// Node strips the types by itself. In CI nothing is left out: no .only, no skip.
const inCi = Boolean(process.env.CI);

module.exports = {
  spec: ["test/**/*.test.ts"],
  extension: ["ts"],
  timeout: 60_000,
  parallel: false,
  forbidOnly: inCi,
  forbidPending: inCi,
};
