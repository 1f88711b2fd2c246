/**
 * The programs of this folder, built as a user would build them: the contract is generated
 * by each language's own tools, and nothing that they make is committed. What they make and
 * fetch stays under node_modules/.cache/languages.
 */
import { execFile } from "node:child_process";
import { accessSync, constants, existsSync } from "node:fs";
import { cp, mkdir } from "node:fs/promises";
import { userInfo } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";

const root = join(import.meta.dirname, "..");
const cache = join(root, "node_modules/.cache/languages");
const contract = join(root, "proto/runlog");
const npmPrograms = join(root, "node_modules/.bin");
const execute = promisify(execFile);

/** What runs a program; the server's address and the run's id follow. */
export interface Command {
  readonly file: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** A language. */
export interface Language {
  readonly name: string;
  /** The programs that it needs and this repository does not install. */
  readonly tools: readonly string[];
  /** Generates the contract and builds the program in a directory of its own. */
  build(directory: string): Promise<Command>;
}

/** The languages, in the order of docs/clients.md. */
export const languages: readonly Language[] = [
  { name: "go", tools: ["go"], build: buildGo },
  { name: "python", tools: ["python3"], build: buildPython },
  { name: "java", tools: ["mvn", "java"], build: buildJava },
  { name: "rust", tools: ["cargo"], build: buildRust },
  {
    name: "node",
    tools: [],
    build: async () => ({
      file: process.execPath,
      args: [join(import.meta.dirname, "node/client.mjs")],
    }),
  },
];

/** Which of a language's tools are not on the PATH. */
export function missingTools({ tools }: Language): readonly string[] {
  const directories = (process.env["PATH"] ?? "").split(delimiter);
  return tools.filter((tool) => !directories.some((directory) => isExecutable(directory, tool)));
}

function isExecutable(directory: string, tool: string): boolean {
  try {
    accessSync(join(directory, tool), constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Copies a language's program to where it may be built, and builds it there. */
export async function buildProgram(language: Language): Promise<Command> {
  const directory = join(cache, language.name);
  await mkdir(directory, { recursive: true });
  await cp(join(import.meta.dirname, language.name), directory, { recursive: true });
  return await language.build(directory);
}

/** Runs a program to its end, with what npm and this folder have installed on the PATH. */
async function run(directory: string, file: string, ...args: string[]): Promise<void> {
  const path = [join(directory, "bin"), npmPrograms, process.env["PATH"]].join(delimiter);
  // rustup's toolchains are its user's, wherever HOME points to.
  const rustup = process.env["RUSTUP_HOME"] ?? join(userInfo().homedir, ".rustup");
  const rust = existsSync(rustup) ? { RUSTUP_HOME: rustup } : {};
  const env = { ...process.env, ...rust, PATH: path, GOBIN: join(directory, "bin") };
  await execute(file, args, { cwd: directory, env, maxBuffer: 64 * 1024 * 1024 });
}

async function buildGo(directory: string): Promise<Command> {
  const generators = [
    "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
  ];
  for (const generator of generators) await run(directory, "go", "install", generator);
  await run(directory, "buf", "generate", root, "--path", contract);
  await run(directory, "go", "build", "-o", "agent", ".");
  return { file: join(directory, "agent"), args: [] };
}

async function buildPython(directory: string): Promise<Command> {
  const packages = join(directory, "packages");
  const out = join(directory, "gen");
  await mkdir(out, { recursive: true });
  const pip = ["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--upgrade"];
  await run(directory, "python3", ...pip, "--target", packages, "-r", "requirements.txt");
  const files = ["error", "event", "ingest", "record", "run", "subscribe"];
  const env = { PYTHONPATH: [packages, out].join(delimiter) };
  await execute(
    "python3",
    [
      ...["-m", "grpc_tools.protoc", "-I", join(root, "proto")],
      ...["--python_out", out, "--grpc_python_out", out],
      ...files.map((file) => `runlog/v1/${file}.proto`),
    ],
    { env: { ...process.env, ...env } },
  );
  return { file: "python3", args: [join(directory, "client.py")], env };
}

async function buildJava(directory: string): Promise<Command> {
  await cp(contract, join(directory, "proto/runlog"), { recursive: true });
  await run(directory, "mvn", "--batch-mode", "--quiet", "compile");
  const classes = ["classes", "dependency/*"].map((path) => join(directory, "target", path));
  return { file: "java", args: ["-cp", classes.join(delimiter), "example.Client"] };
}

async function buildRust(directory: string): Promise<Command> {
  await run(directory, "buf", "build", root, "--path", contract, "-o", "contract.binpb");
  await run(directory, "cargo", "build", "--quiet", "--locked");
  return { file: join(directory, "target/debug/agent"), args: [] };
}
