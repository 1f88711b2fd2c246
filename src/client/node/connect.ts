import type { Transport } from "@connectrpc/connect";
import { type ConnectLogOptions, connect as connectOver } from "../log/connect.ts";
import { Log } from "../log/log.ts";
import { type ConnectOptions, connectTo } from "./transport.ts";

/** How to connect to a server by URL. */
export interface ConnectUrlOptions extends ConnectLogOptions, Omit<ConnectOptions, "token"> {}

/**
 * A log on a server, over gRPC: by its URL `http://` or `https://`, or those of several nodes of
 * one journal, with commas. The connection is opened by the first call, again whenever it is lost,
 * and ends with `close`. Over a transport as in browsers.
 *
 * @throws TypeError for an invalid URL, one with a user or a password, and a text that can be no
 *   token
 */
export function connect(to: string | URL | Transport, options: ConnectUrlOptions = {}): Log {
  if (typeof to !== "string" && !(to instanceof URL)) return connectOver(to, options);
  const { namespace, onDrop, onError, onState, limits, token, ...rest } = options;
  const { transport, close } = connectTo(`${to}`, {
    ...rest,
    ...(token !== undefined && { token }),
  });
  return new Log(transport, { namespace, onDrop, onError, onState, limits }, close);
}
