/**
 * Flags that say which records: whose, of what kinds, and of what types.
 *
 * Invariant: exactly one of --ancestor, --run and --all is given, so that
 * nobody reads everything by mistake.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Command } from "commander";
import { type EventFilterSchema, RecordKind } from "../../gen/runlog/v1/record_pb.js";
import { parseCount } from "./flags.ts";

/** Which records. */
export interface ScopeFlags {
  readonly ancestor?: string;
  /** false: --no-self. */
  readonly self: boolean;
  readonly maxDepth?: number;
  readonly run?: readonly string[];
  readonly inherited?: true;
  readonly all?: true;
  readonly kind?: readonly KindName[];
  readonly type?: readonly string[];
}

const kinds = {
  events: RecordKind.EVENT,
  signals: RecordKind.SIGNAL,
  lifecycle: RecordKind.LIFECYCLE,
} as const;

type KindName = keyof typeof kinds;

/** Adds --ancestor, --no-self, --max-depth, --run, --inherited, --all, --kind and --type. */
export function addScopeFlags(command: Command): Command {
  return command
    .option("--ancestor <id>", "a run and all its descendants, including later ones")
    .option("--no-self", "with --ancestor: leave out the ancestor's own records")
    .option("--max-depth <n>", "with --ancestor: at most n levels below it", parseCount)
    .option("--run <id...>", "runs by id, up to 100")
    .option("--inherited", "with --run: also the events that forks inherit")
    .option("--all", "everything in the namespace")
    .addOption(
      command
        .createOption(
          "--kind <kind...>",
          "only producers' events, signals, or the lifecycle of runs: starts, waits, ends",
        )
        .choices(Object.keys(kinds)),
    )
    .option(
      "--type <pattern...>",
      'only events of these types; "tool.*" is a prefix. The lifecycle of runs always matches',
    );
}

/** Ends the command with its usage where the flags do not go together. */
export function checkScope(flags: ScopeFlags, command: Command): void {
  const scopes = [flags.ancestor, flags.run, flags.all].filter((scope) => scope !== undefined);
  if (scopes.length !== 1) {
    command.error("error: use exactly one of --ancestor ID, --run ID… and --all");
  }
  if (flags.ancestor === undefined && (!flags.self || flags.maxDepth !== undefined)) {
    command.error("error: --no-self and --max-depth need --ancestor");
  }
  if (flags.run === undefined && flags.inherited) {
    command.error("error: --inherited needs --run");
  }
}

/** The filter that the flags ask for. */
export function filterOf(flags: ScopeFlags): MessageInitShape<typeof EventFilterSchema> {
  const { ancestor, run, self: includeSelf, maxDepth = 0 } = flags;
  return {
    scope:
      ancestor !== undefined
        ? { case: "ancestor", value: { ancestorRunId: ancestor, includeSelf, maxDepth } }
        : run !== undefined
          ? {
              case: "runIds",
              value: { runIds: [...run], includeInherited: flags.inherited ?? false },
            }
          : { case: "all", value: {} },
    eventTypes: [...(flags.type ?? [])],
    kinds: (flags.kind ?? []).map((kind) => kinds[kind]),
  };
}
