/**
 * Why a server cannot be reached, for people: what listens at its port instead. Asked only once
 * a first connection has failed; one TCP connection, one request, one look at the answer.
 */
import { once } from "node:events";
import { connect, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { ClientTls } from "../client/node/index.ts";

/** Milliseconds for each step of the look. */
const stepTimeoutMs = 2_000;
/** Bytes of an answer that are looked at. */
const maxAnswerBytes = 4_096;
/** TLS says what it does not understand by an alert: record type 21, version 3.x. */
const tlsAlert = Buffer.of(0x15, 0x03);

/**
 * A sentence about what listens there, or undefined where it cannot tell.
 *
 * @param tls what the real connection would show and trust
 */
export async function diagnose(server: string, tls: ClientTls): Promise<string | undefined> {
  const { protocol, hostname, port, host } = new URL(server);
  const isTls = protocol === "https:";
  const address = {
    host: hostname.replace(/^\[|\]$/g, ""),
    port: port === "" ? (isTls ? 443 : 80) : Number(port),
  };
  if (isTls) return diagnoseTls(address, host, tls);
  const answer = await answerOf(
    connect(address),
    `GET /healthz HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`,
  );
  if (answer === undefined) return undefined;
  if (answer.subarray(0, 2).equals(tlsAlert)) return `it speaks TLS: use https://${host}`;
  const text = answer.toString("latin1");
  if (text === "") {
    return (await speaksTls(address))
      ? `it speaks TLS: use https://${host}`
      : "a program accepts connections there and does not answer";
  }
  if (/^HTTP\/1\.[01] \d{3}/.test(text)) {
    if (/\r\n\r\n(?:\S*\r\n)?(?:serving|draining)\n/.test(text)) return undefined;
    // What nginx and others say to plain HTTP on a TLS port.
    if (/plain HTTP request was sent to HTTPS port/i.test(text)) {
      return `it speaks TLS: use https://${host}`;
    }
    return `another program than runlog answers there (${text.slice(0, text.indexOf("\r\n"))})`;
  }
  return "the program that answers there does not speak HTTP";
}

async function diagnoseTls(
  address: { readonly host: string; readonly port: number },
  host: string,
  { ca, ...own }: ClientTls,
): Promise<string | undefined> {
  const servername = isIP(address.host) === 0 ? address.host : "";
  const trusted = ca === undefined ? {} : { ca: [ca] };
  // Says what is wrong with the certificate, instead of leaving; nothing is sent.
  const socket = connectTls({
    ...own,
    ...trusted,
    ...address,
    servername,
    rejectUnauthorized: false,
  });
  try {
    await once(socket, "secureConnect", { signal: AbortSignal.timeout(stepTimeoutMs) });
    const { authorizationError: problem } = socket;
    if (!socket.authorized) {
      return `its certificate is not trusted (${String(problem)}): does --ca name its authority, and is it for this host?`;
    }
    return own.cert === undefined
      ? undefined
      : "it may have refused --cert: its log says so at the level info";
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    const isPlain = code === "EPROTO" || code.startsWith("ERR_SSL");
    return isPlain ? `it does not speak TLS: use http://${host}` : undefined;
  } finally {
    socket.on("error", () => undefined).destroy();
  }
}

/** Whether TLS is what a program wants that closes on plaintext, or waits. */
async function speaksTls(address: {
  readonly host: string;
  readonly port: number;
}): Promise<boolean> {
  const socket = connectTls({ ...address, rejectUnauthorized: false });
  try {
    await once(socket, "secureConnect", { signal: AbortSignal.timeout(stepTimeoutMs) });
    return true;
  } catch {
    return false;
  } finally {
    socket.on("error", () => undefined).destroy();
  }
}

/** What comes after a request, until the end or for a while; undefined where no connection came about. */
async function answerOf(socket: Socket, request: string): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let isConnected = false;
  const signal = AbortSignal.timeout(stepTimeoutMs);
  try {
    await once(socket, "connect", { signal });
    isConnected = true;
    socket.write(request);
    socket.setTimeout(stepTimeoutMs, () => socket.destroy());
    let bytes = 0;
    for await (const chunk of socket.iterator({ destroyOnReturn: true })) {
      chunks.push(chunk as Buffer);
      bytes += (chunk as Buffer).length;
      if (bytes > maxAnswerBytes) break;
    }
  } catch {
    // It may break off after the bytes that matter.
    if (!isConnected) return undefined;
  } finally {
    socket.on("error", () => undefined).destroy();
  }
  return Buffer.concat(chunks);
}
