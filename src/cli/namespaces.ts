/** The namespaces of a server. */
import { createClient, type Transport } from "@connectrpc/connect";
import { AdminService, type Namespace } from "../../gen/runlog/v1/admin_pb.js";
import { type ConnectionFlags, callServer, connectBy, type ServerFlags } from "./connection.ts";
import { defaultNamespace } from "./env.ts";
import { CommandError, reasonOf } from "./failure.ts";

/** Namespaces per page: the contract's maximum, for the fewest round trips. */
const pageSize = 1_000;

/** All namespaces by name, a page at a time. */
export async function* namespacePages(
  transport: Transport,
  flags: ServerFlags,
): AsyncGenerator<readonly Namespace[]> {
  const client = createClient(AdminService, transport);
  let pageToken = "";
  do {
    const request = { pageSize, pageToken };
    const page = await callServer(flags, (options) => client.listNamespaces(request, options));
    yield page.namespaces;
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
}

/** Whether a namespace is there; "default" may be empty still. */
export async function namespaceExists(
  transport: Transport,
  flags: ConnectionFlags,
): Promise<boolean> {
  const { namespace } = flags;
  if (namespace === "" || namespace === defaultNamespace) return true;
  return (await findNamespace(transport, flags, namespace)) !== undefined;
}

/** Says that a namespace does not exist: a slip of the pen, mostly. */
export function noSuchNamespace({ namespace }: ConnectionFlags): string {
  return `namespace ${JSON.stringify(namespace)} does not exist: producers create one by writing to it, \`runlog namespaces\` lists those that exist`;
}

/**
 * Connects, and does work that returns whether it has found anything. Where it has not, or a
 * run does not exist, that may be for the namespace, and then says so.
 *
 * @throws CommandError no such namespace, and what the work throws
 */
export async function inNamespace(
  flags: ConnectionFlags,
  work: (transport: Transport) => Promise<boolean>,
): Promise<void> {
  const { transport, close } = connectBy(flags);
  const requireNamespace = async () => {
    if (!(await namespaceExists(transport, flags))) throw new CommandError(noSuchNamespace(flags));
  };
  try {
    if (!(await work(transport))) await requireNamespace();
  } catch (error) {
    if (reasonOf(error) === "RUN_NOT_FOUND") await requireNamespace();
    throw error;
  } finally {
    close();
  }
}

/** One namespace; undefined where there is none of that name. */
export async function findNamespace(
  transport: Transport,
  flags: ServerFlags,
  name: string,
): Promise<Namespace | undefined> {
  for await (const page of namespacePages(transport, flags)) {
    const found = page.find((namespace) => namespace.name === name);
    if (found !== undefined) return found;
  }
  return undefined;
}
