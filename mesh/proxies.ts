/**
 * The proxies of deploy/, as they are shipped: only addresses and paths are put in, and, where a
 * test is about silence, the times after which a proxy takes a stream for dead.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "../dev/postgres-server.ts";
import type { Secrets } from "../test/support/secrets.ts";
import { end, program, startListening } from "./programs.ts";

/** A proxy before three nodes. */
export interface RunningProxy {
  /** For HTTP/2 and HTTP/1.1. */
  readonly url: string;
  stop(): Promise<void>;
}

/** How to start one. */
export interface ProxyOptions {
  /** Ports of the nodes on 127.0.0.1: node1, node2, node3. */
  readonly nodePorts: readonly number[];
  /** Its certificate, and the authority of nodes. */
  readonly secrets: Secrets;
  /** Seconds of silence after which it cuts a stream, instead of the shipped two minutes. */
  readonly silenceSeconds?: number;
  /** An HTTP filter of Envoy's, in YAML, before its router. Default: none. */
  readonly filter?: string;
}

/** Every proxy that deploy/ has a configuration for. */
export const proxies: Readonly<Record<string, (options: ProxyOptions) => Promise<RunningProxy>>> = {
  nginx: startNginx,
  Envoy: startEnvoy,
};

const deploy = join(import.meta.dirname, "../deploy");
const shippedSecrets = "/etc/runlog/";
const shippedSilence = /\b120s/g;

async function startNginx({
  nodePorts,
  secrets,
  silenceSeconds = 120,
}: ProxyOptions): Promise<RunningProxy> {
  const directory = await mkdtemp(join(tmpdir(), "runlog-nginx-"));
  await mkdir(join(directory, "tmp"));
  const port = await freePort();
  let shipped = await readFile(join(deploy, "nginx.conf"), "utf8");
  for (const [index, nodePort] of nodePorts.entries()) {
    shipped = shipped.replaceAll(`server node${index + 1}:7400 `, `server 127.0.0.1:${nodePort} `);
  }
  shipped = shipped
    .replace("listen 7400 ", `listen 127.0.0.1:${port} `)
    .replaceAll(shippedSecrets, secrets.path("proxy/"))
    .replaceAll(shippedSilence, `${silenceSeconds}s`);
  const paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path ${directory}/tmp/${name};`)
    .join("\n");
  const user = process.getuid?.() === 0 ? "user root;" : "";
  const config = `${user}
daemon off;
pid ${directory}/nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
access_log off;
${paths}
${shipped}
}
`;
  const file = join(directory, "nginx.conf");
  await writeFile(file, config);
  const args = ["-p", directory, "-c", file, "-e", "stderr"];
  const child = await startListening(program("nginx"), args, [port]);
  return {
    url: `https://127.0.0.1:${port}`,
    async stop() {
      await end(child);
      await rm(directory, { recursive: true });
    },
  };
}

async function startEnvoy({
  nodePorts,
  secrets,
  silenceSeconds = 120,
  filter,
}: ProxyOptions): Promise<RunningProxy> {
  const directory = await mkdtemp(join(tmpdir(), "runlog-envoy-"));
  const port = await freePort();
  let config = await readFile(join(deploy, "envoy.yaml"), "utf8");
  for (const [index, nodePort] of nodePorts.entries()) {
    const shipped = `address: node${index + 1}, port_value: 7400`;
    config = config.replace(shipped, `address: 127.0.0.1, port_value: ${nodePort}`);
  }
  config = config
    .replace("address: 0.0.0.0, port_value: 7400", `address: 127.0.0.1, port_value: ${port}`)
    .replaceAll(shippedSecrets, secrets.path("proxy/"))
    .replaceAll(shippedSilence, `${silenceSeconds}s`);
  if (filter !== undefined) {
    const item = `- ${filter.trimEnd().replaceAll("\n", "\n  ")}`;
    const lines = item.replaceAll(/^/gm, " ".repeat(18));
    config = config.replace(/^ +http_filters:\n/m, (found) => `${found}${lines}\n`);
  }
  const file = join(directory, "envoy.yaml");
  await writeFile(file, config);
  const args = ["-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"];
  const child = await startListening(program("envoy"), args, [port]);
  return {
    url: `https://127.0.0.1:${port}`,
    async stop() {
      await end(child);
      await rm(directory, { recursive: true });
    },
  };
}
