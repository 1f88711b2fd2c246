// Clients in other languages, whose toolchains npm does not have: npm run test:languages.
const settings = require("../.mocharc.cjs");

module.exports = { ...settings, spec: ["languages/**/*.test.ts"], timeout: 600_000 };
