import type { Transport } from "@connectrpc/connect";
import type { TokenProvider } from "../tokens.ts";
import { withToken } from "../with-token.ts";
import { Log, type LogOptions } from "./log.ts";

/** How to connect over a transport. */
export interface ConnectLogOptions extends LogOptions {
  /** The bearer token of every call, or who gives it: see withToken. Default: what the transport shows. */
  readonly token?: string | TokenProvider | undefined;
}

/**
 * A log over any Connect transport. In a browser: one of `@connectrpc/connect-web`, which follows,
 * signals and lists, but carries no run.
 *
 * @throws TypeError for a text that can be no token
 */
export function connect(transport: Transport, options: ConnectLogOptions = {}): Log {
  const { token, ...rest } = options;
  return new Log(token === undefined ? transport : withToken(transport, token), rest);
}
