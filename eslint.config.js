/**
 * Only what needs types and Biome does not catch: Biome's noFloatingPromises
 * misses promises of packages and of Node's own modules. Everything else is
 * Biome's (biome.json).
 */
import plugin from "@typescript-eslint/eslint-plugin";
import parser from "@typescript-eslint/parser";

const timers = {
  name: "setTimeout",
  message: "Use startTimer of src/timers.ts: Node makes 1 ms of long waits.",
};

export default [
  { ignores: ["gen/", "dist/", "bench/results/"] },
  {
    files: ["**/*.ts"],
    languageOptions: {
      parser,
      parserOptions: {
        project: ["./tsconfig.json", "./bench/tsconfig.json"],
        tsconfigRootDir: import.meta.dirname,
      },
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    plugins: { "@typescript-eslint": plugin },
    rules: {
      "@typescript-eslint/await-thenable": "error",
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-misused-promises": "error",
      // What a signal or a catch hands over may be passed on: its type is any or unknown.
      "@typescript-eslint/only-throw-error": [
        "error",
        { allowThrowingAny: true, allowThrowingUnknown: true },
      ],
      "@typescript-eslint/prefer-promise-reject-errors": [
        "error",
        { allowThrowingAny: true, allowThrowingUnknown: true },
      ],
      "@typescript-eslint/return-await": ["error", "error-handling-correctness-only"],
      "@typescript-eslint/switch-exhaustiveness-check": [
        "error",
        { considerDefaultExhaustiveForUnions: true },
      ],
    },
  },
  {
    files: ["src/**/*.ts"],
    ignores: ["src/timers.ts"],
    rules: {
      "no-restricted-globals": ["error", timers],
    },
  },
  {
    files: ["src/wire/**/*.ts", "src/*.ts", "src/client/*.ts"],
    ignores: ["src/timers.ts"],
    rules: {
      "no-restricted-globals": [
        "error",
        timers,
        { name: "Buffer", message: "This runs in browsers: use Uint8Array." },
      ],
    },
  },
  {
    files: ["src/**/*.ts"],
    ignores: ["src/cli/**"],
    rules: {
      "no-restricted-properties": [
        "error",
        { object: "process", property: "exit", message: "Only the cli ends the process." },
      ],
    },
  },
];
