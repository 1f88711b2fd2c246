/** `runlog signal`: sends input to a run. */
import { create } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { Command, InvalidArgumentError } from "commander";
import { v7 as uuidv7 } from "uuid";
import { EventSchema } from "../../../gen/runlog/v1/event_pb.js";
import {
  RunService,
  type SignalRunResponse,
  SignalRunResponseSchema,
} from "../../../gen/runlog/v1/run_pb.js";
import { limitSpecs } from "../../limits.ts";
import { type ConnectionFlags, callServer } from "../connection.ts";
import { environmentHelp } from "../env.ts";
import { CommandError, exitStatus, exitStatusHelp } from "../failure.ts";
import { addConnectionFlags } from "../flags.ts";
import { inNamespace } from "../namespaces.ts";
import { stdout } from "../output.ts";
import { jsonLine } from "../print-records.ts";
import { sizeText } from "../text.ts";

/** Bytes of the data in which its first character is looked for. */
const maxIndent = 1_024;

interface SignalFlags extends ConnectionFlags {
  readonly type: string;
  readonly id?: string;
  readonly contentType?: string;
  readonly json?: true;
}

/** Builds the command; `exit` takes the status. */
export function signalCommand(exit: (status: number) => void): Command {
  return addConnectionFlags(new Command("signal"))
    .description("Send input to a run: a message, an answer, an approval.")
    .argument("<run-id>", "the run")
    .argument("[data]", "what to send; - reads it from standard input")
    .requiredOption("--type <type>", "what it is, such as approval or message")
    .option("--id <id>", "names the signal: sent again under its id, it counts once", parseId)
    .option(
      "--content-type <type>",
      "media type of the data; default application/json, or text/plain for data that is no JSON and does not begin with {",
    )
    .option("--json", "print the answer as protobuf-JSON")
    .addHelpText("after", help + environmentHelp + exitStatusHelp)
    .action(async (runId: string, data: string | undefined, flags: SignalFlags) => {
      await signal(runId, data === "-" ? await readInput() : Buffer.from(data ?? ""), flags);
      exit(exitStatus.ok);
    });
}

const help = `
The signal is durable once the command ends. It reaches the run's producer in order,
at once or when the run is opened again; runs that have ended take none. ingest, and exec
without --signals, do not read signals: the run keeps them unhandled.

Examples:
  $ runlog signal RUN --type approval '{"approved": true}'
  $ echo "please hurry" | runlog signal RUN --type message -
  $ runlog runs --state waiting          the runs that wait for one
`;

async function signal(runId: string, data: Uint8Array, flags: SignalFlags): Promise<void> {
  // An answer may be lost: what is asked again under the same id counts once.
  const { namespace, type, id: signalId = uuidv7() } = flags;
  const contentType = flags.contentType ?? (isJson(data) ? "" : textType(data));
  const event = create(EventSchema, { type, data, contentType });
  await inNamespace(flags, async (transport) => {
    const client = createClient(RunService, transport);
    const request = { namespace, runId, signalId, event };
    const answer = await callServer(flags, (options) => client.signalRun(request, options));
    await stdout.write(flags.json ? jsonLine(SignalRunResponseSchema, answer) : lineOf(answer));
    return true;
  });
}

function lineOf({ signalSeq, signalId, seq }: SignalRunResponse): string {
  return `signal ${signalSeq} at seq ${seq}, id ${signalId}\n`;
}

/** The type of what is no JSON, unless it was meant to be: an agent would get a text for an object. */
function textType(data: Uint8Array): string {
  const start = new TextDecoder().decode(data.subarray(0, maxIndent)).trimStart();
  if (!start.startsWith("{")) return "text/plain";
  throw new CommandError(
    "the data begins as JSON and is none: correct it, or send it as text with --content-type text/plain",
    exitStatus.usage,
  );
}

function isJson(data: Uint8Array): boolean {
  if (data.length === 0) return true;
  try {
    JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
    return true;
  } catch {
    return false;
  }
}

/** An empty one names nothing: each try would be another signal. */
function parseId(value: string): string {
  if (value === "") throw new InvalidArgumentError("leave the option out for a new id.");
  return value;
}

/** Reads the standard input, which may be endless, up to what a signal may hold. */
async function readInput(): Promise<Uint8Array> {
  const { max } = limitSpecs.maxEventBytes.range;
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of process.stdin as AsyncIterable<Uint8Array>) {
    bytes += chunk.length;
    if (bytes > max) {
      throw new CommandError(
        `the standard input has more than ${sizeText(max)}, which no server takes as one signal: send less`,
      );
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
