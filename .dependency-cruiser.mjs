/**
 * The layers of docs/architecture.md, as rules. Each layer lists everything it may
 * import; any other import, of types too, is a violation.
 */
import { builtinModules } from "node:module";

/** Files directly in src/, and the wire's bytes: every layer may import them. */
const own = "^src/([^/]+|wire/.+)\\.ts$";
const gen = "^gen/";

/** Node modules that speak to the network: not for the domain. */
const wire = ["http", "http2", "https", "net", "tls", "dgram"];

const packages = (...names) => names.map((name) => `^node_modules/${name}/`);
const builtins = (names) => `^(node:)?(${names.join("|")})$`;
const nodeModules = builtinModules
  .map((name) => name.replace(/^node:/, ""))
  .filter((name) => !name.startsWith("_"));
const anyNode = builtins(nodeModules);
const quietNode = builtins(nodeModules.filter((name) => !wire.includes(name)));

/** `name` is what the violation is called; `from` may import `may`, and nothing else. */
const only = (name, from, may, fromNot) => ({
  name,
  severity: "error",
  comment: "A layer imports only what .dependency-cruiser.mjs lists for it.",
  from: fromNot === undefined ? { path: from } : { path: from, pathNot: fromNot },
  to: { pathNot: may },
});

export default {
  forbidden: [
    only("wire-imports", "^src/wire/", [
      "^src/wire/",
      "^src/limits\\.ts$",
      gen,
      ...packages("@bufbuild/protobuf"),
    ]),
    only("journal-imports", "^src/journal/", [
      "^src/journal/",
      own,
      gen,
      quietNode,
      // The lock of a SQLite file is a socket's name.
      "^net$",
      ...packages(
        "@bufbuild/protobuf",
        "better-sqlite3",
        "kysely",
        "p-retry",
        "pg",
        "pg-connection-string",
        "pino",
        "uuid",
      ),
    ]),
    {
      name: "databases-apart",
      severity: "error",
      comment: "A database's folder imports neither the other database nor the pages.",
      from: { path: "^src/journal/(sqlite|postgres)/" },
      to: { path: "^src/journal/(sqlite|postgres|pages)/", pathNot: "^src/journal/$1/" },
    },
    {
      name: "pages-know-no-database",
      severity: "error",
      comment: "Pages are read by the same queries on every database.",
      from: { path: "^src/journal/pages/" },
      to: { path: "^src/journal/(sqlite|postgres)/" },
    },
    only("ingest-imports", "^src/ingest/", [
      "^src/ingest/",
      "^src/journal/",
      own,
      gen,
      quietNode,
      ...packages("@bufbuild/protobuf", "p-retry", "pino", "uuid"),
    ]),
    only("maintenance-imports", "^src/maintenance/", [
      "^src/maintenance/",
      "^src/(ingest|journal)/",
      own,
      gen,
      quietNode,
      ...packages("@bufbuild/protobuf", "p-retry", "pino", "uuid"),
    ]),
    only("delivery-imports", "^src/delivery/", [
      "^src/delivery/",
      "^src/journal/",
      own,
      gen,
      quietNode,
      ...packages("@bufbuild/protobuf", "pino", "uuid"),
    ]),
    only("server-imports", "^src/server/", [
      "^src/(server|maintenance|ingest|delivery|journal)/",
      own,
      gen,
      anyNode,
      ...packages("@bufbuild/protobuf", "@connectrpc/connect", "@connectrpc/connect-node"),
      ...packages("jose", "pino", "uuid"),
    ]),
    {
      name: "http-knows-no-domain",
      severity: "error",
      comment: "src/server/http turns connections into calls; the services act on them.",
      from: { path: "^src/server/http/" },
      to: { path: "^src/(ingest|delivery|journal|maintenance)/" },
    },
    {
      name: "auth-knows-no-domain",
      severity: "error",
      comment: "src/server/auth says who may do what; the services and the domain apply it.",
      from: { path: "^src/server/auth/" },
      to: { path: "^src/(ingest|delivery|journal|maintenance)/" },
    },
    only(
      "client-imports",
      "^src/client/",
      [
        "^src/client/(?!node/)",
        own,
        gen,
        ...packages("@bufbuild/protobuf", "@connectrpc/connect", "uuid"),
      ],
      "^src/client/node/",
    ),
    only("client-node-imports", "^src/client/node/", [
      "^src/client/",
      own,
      gen,
      anyNode,
      ...packages("@bufbuild/protobuf", "@connectrpc/connect", "@connectrpc/connect-node"),
    ]),
    {
      name: "client-runs-in-browsers",
      severity: "error",
      comment: "The client's core reaches a Node module, perhaps through a file of src/.",
      from: { path: "^src/client/", pathNot: "^src/client/node/" },
      to: { path: anyNode, reachable: true },
    },
    only(
      "cli-imports",
      "^src/cli/",
      ["^src/(cli|client)/", own, gen, anyNode, "^node_modules/", "^package\\.json$"],
      "^src/cli/commands/serve\\.ts$",
    ),
    only("cli-serve-imports", "^src/cli/commands/serve\\.ts$", [
      "^src/(cli|client|server)/",
      own,
      gen,
      anyNode,
      "^node_modules/",
    ]),
    {
      name: "no-server-at-start-up",
      severity: "error",
      comment: "serve loads the server, when it is asked to: the other commands start without.",
      from: { path: "^src/cli/" },
      to: { path: ["^src/server/", "^node_modules/pino/"], dynamic: false },
    },
    {
      name: "no-database-in-the-cli",
      severity: "error",
      comment: "The cli reaches the journal only over the wire.",
      from: { path: "^src/cli/" },
      to: { path: packages("better-sqlite3", "kysely", "pg") },
    },
    only("robustness-imports", "^robustness/", [
      "^robustness/",
      "^dev/",
      gen,
      anyNode,
      ...packages("@bufbuild/protobuf", "@grpc/grpc-js", "commander", "pg"),
    ]),
    {
      name: "nothing-imports-the-rig",
      severity: "error",
      comment: "Only its tests do.",
      from: { path: "^(src|demo|dev)/" },
      to: { path: "^robustness/" },
    },
    {
      name: "top-level-imports",
      severity: "error",
      comment: "Files that every layer may import cannot import a layer above the wire.",
      from: { path: "^src/[^/]+\\.ts$" },
      to: { path: "^src/(?!wire/)[^/]+/" },
    },
    {
      name: "nothing-imports-the-cli",
      severity: "error",
      from: { path: "^(src|demo)/", pathNot: "^src/cli/" },
      to: { path: "^src/cli/" },
    },
    {
      name: "no-unknown-layer",
      severity: "error",
      comment: "A new folder in src/ needs its rule here.",
      from: {},
      to: {
        path: "^src/[^/]+/",
        pathNot: "^src/(cli|client|delivery|ingest|journal|server|maintenance|wire)/",
      },
    },
    { name: "no-cycles", severity: "error", from: {}, to: { circular: true } },
    { name: "no-unresolvable", severity: "error", from: {}, to: { couldNotResolve: true } },
  ],
  options: {
    doNotFollow: { path: "^node_modules/" },
    exclude: { path: "^(dist|bench/results)/" },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["types", "import", "node", "default"],
    },
  },
};
