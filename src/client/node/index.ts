/** What the client needs on Node: a connection to a server by URL. */

export { type ConnectUrlOptions, connect } from "./connect.ts";
export type { ClientTls } from "./sockets.ts";
export { type ConnectOptions, connectTo, type NodeConnection } from "./transport.ts";
