/** The ports of a server: one, or one with TLS and one for plaintext beside it. */
import type { Logger } from "pino";
import { listen, type Port, type PortOptions } from "./port.ts";
import type { TlsFiles } from "./tls-files.ts";

/** Where to listen. */
export interface ListenAddresses {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** For plaintext beside TLS. */
  readonly plaintext?: { readonly host: string; readonly port: number };
  readonly logger: Logger;
}

/** Ports that listen, as one. */
export interface Ports extends Pick<Port, "stopAccepting" | "closed" | "destroy"> {
  readonly url: string;
  readonly plaintextUrl: string | undefined;
}

/**
 * Listens, with TLS where there are files for it, and uses each new version of them.
 *
 * @throws the system's error, EADDRINUSE for one
 */
export async function listenOn(
  { host, port, plaintext, logger }: ListenAddresses,
  files: TlsFiles | undefined,
  options: Omit<PortOptions, "host" | "port" | "tls">,
): Promise<Ports> {
  const onRefused = (problem: string, address: string | undefined) => {
    logger.info({ problem, address }, "a connection over TLS was refused");
  };
  const tls = files && { context: files.context, asksClients: files.asksClients, onRefused };
  const first = await listen({ ...options, host, port, tls });
  files?.onChange((context) => first.setTls(context));
  // They may have changed meanwhile.
  if (files !== undefined) first.setTls(files.context);
  const all = [first];
  try {
    if (plaintext !== undefined) all.push(await listen({ ...options, ...plaintext }));
  } catch (error) {
    first.stopAccepting();
    first.destroy();
    throw error;
  }
  const [, second] = all;
  return {
    url: urlOf(files === undefined ? "http" : "https", first),
    plaintextUrl: second && urlOf("http", second),
    stopAccepting() {
      for (const one of all) one.stopAccepting();
    },
    async closed() {
      await Promise.all(all.map((one) => one.closed()));
    },
    destroy() {
      for (const one of all) one.destroy();
    },
  };
}

function urlOf(scheme: string, { host, port }: Port): string {
  return `${scheme}://${host}:${port}`;
}
