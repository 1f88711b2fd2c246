// Faults of real nodes and of PostgreSQL; some need root, or PgBouncer: npm run test:faults.
const settings = require("../../.mocharc.cjs");

module.exports = { ...settings, spec: ["test/faults/**/*.test.ts"] };
