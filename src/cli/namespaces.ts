/** The namespaces of a server. */
import { createClient, type Transport } from "@connectrpc/connect";
import { AdminService, type Namespace } from "../../gen/runlog/v1/admin_pb.js";
import { type ConnectionFlags, callServer, type ServerFlags } from "./connection.ts";
import { defaultNamespace } from "./env.ts";
import { CommandError } from "./failure.ts";

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

/**
 * Makes sure that a namespace exists, for commands that would otherwise wait for nothing, or
 * find nothing, because of a slip of the pen. "default" may be empty still.
 *
 * @throws CommandError no such namespace
 */
export async function requireNamespace(
  transport: Transport,
  flags: ConnectionFlags,
): Promise<void> {
  const { namespace } = flags;
  if (namespace === "" || namespace === defaultNamespace) return;
  if ((await findNamespace(transport, flags, namespace)) !== undefined) return;
  throw new CommandError(
    `there is no namespace ${JSON.stringify(namespace)}: producers create one by writing to it, \`runlog namespaces\` lists those that exist`,
  );
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
