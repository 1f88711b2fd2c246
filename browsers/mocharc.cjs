// A page in a real Chromium, which npm does not have: npm run test:browsers.
const settings = require("../.mocharc.cjs");

module.exports = { ...settings, spec: ["browsers/**/*.test.ts"], timeout: 120_000 };
