/** How a port speaks TLS. */
import { constants } from "node:crypto";
import type * as https from "node:https";
import type { SecureContextOptions, TLSSocket } from "node:tls";

/** How to speak TLS. */
export interface PortTls {
  readonly context: SecureContextOptions;
  /** Asks clients for certificates. One that is presented has to be good; none has to be. */
  readonly asksClients: boolean;
  /** Called for each client with which no connection comes about. */
  readonly onRefused: (problem: string, address: string | undefined) => void;
}

/** What Node needs to know of it. */
export function tlsOptions(
  { context, asksClients }: PortTls,
  handshakeTimeout: number,
): https.ServerOptions {
  return {
    ...securedBy(context, asksClients),
    noDelay: true,
    handshakeTimeout,
    ALPNProtocols: ["h2", "http/1.1"],
    requestCert: asksClients,
    // Node would refuse clients without a certificate too; those may have a token.
    rejectUnauthorized: false,
  };
}

/** The context of each connection. A session that is resumed would bring back a certificate that nobody has looked at again. */
export function securedBy(
  context: SecureContextOptions,
  asksClients: boolean,
): SecureContextOptions {
  return asksClients ? { ...context, secureOptions: constants.SSL_OP_NO_TICKET } : context;
}

/** Why a certificate is refused: Node's own word for it, `CERT_HAS_EXPIRED` for one. */
export function certificateProblem({ authorizationError: problem }: TLSSocket): string {
  return typeof problem === "string" ? problem : (problem?.message ?? "it is not verified");
}
