// The tests that need programs which npm does not have: npm run test:mesh.
const settings = require("../.mocharc.cjs");

module.exports = { ...settings, spec: ["mesh/**/*.test.ts"], timeout: 240_000 };
