/** What can be said of deploy/ without an engine that runs it: its schemas, and the code that it names. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { validate as validateDockerfile } from "dockerfile-utils";
import { Deployment } from "kubernetes-models/apps/v1";
import { NetworkPolicy } from "kubernetes-models/networking.k8s.io/v1";
import { PodDisruptionBudget } from "kubernetes-models/policy/v1";
import { Namespace, Service, ServiceAccount } from "kubernetes-models/v1";
import { parse } from "yaml";
import { Authority } from "./support/certificates.ts";
import { startTestServer } from "./support/server.ts";

const directory = join(import.meta.dirname, "../deploy");

function read(name: string): string {
  return readFileSync(join(directory, name), "utf8");
}

/** Anything in a YAML file; a path that is not there is undefined. */
function at(value: unknown, ...path: (string | number)[]): unknown {
  return path.reduce<unknown>(
    (inner, key) => (inner as Record<string, unknown> | undefined)?.[key],
    value,
  );
}

/** Every value under a key, wherever it stands. */
function* every(value: unknown, key: string): Generator<unknown> {
  if (typeof value !== "object" || value === null) return;
  for (const [name, inner] of Object.entries(value)) {
    if (name === key) yield inner;
    yield* every(inner, key);
  }
}

/** The port that a server listens on unless it is told otherwise. */
const port = Number(
  /port: (\d+) \}, "127\.0\.0\.1:\1"/.exec(
    readFileSync(join(directory, "../src/cli/commands/serve.ts"), "utf8"),
  )?.[1],
);

describe("deploy/", () => {
  it("has a Dockerfile without mistakes that needs no root and builds the published files", () => {
    const dockerfile = read("Dockerfile");
    assert.deepEqual(
      validateDockerfile(dockerfile).map(({ message }) => message),
      [],
    );
    assert.match(dockerfile, /^USER [1-9]\d*:[1-9]\d*$/m);
    assert.match(dockerfile, new RegExp(`^EXPOSE ${port}$`, "m"));
    const { bin } = JSON.parse(readFileSync(join(directory, "../package.json"), "utf8")) as {
      bin: { runlog: string };
    };
    assert.ok(dockerfile.includes(`"node", "${bin.runlog}"`));
    // Whatever is copied in is let through.
    const ignored = read("Dockerfile.dockerignore").split("\n");
    for (const [, names = ""] of dockerfile.matchAll(/^COPY (?!--from)(.+) \S+$/gm)) {
      for (const name of names.split(" ")) assert.ok(ignored.includes(`!${name}`), name);
    }
  });

  it("has Kubernetes manifests that fit their schemas", () => {
    const kinds = {
      Deployment,
      NetworkPolicy,
      PodDisruptionBudget,
      Namespace,
      Service,
      ServiceAccount,
    };
    const names = readdirSync(join(directory, "kubernetes")).filter(
      (name) => name !== "kustomization.yaml",
    );
    const listed = at(parse(read("kubernetes/kustomization.yaml")), "resources");
    assert.deepEqual((listed as string[]).toSorted(), names.toSorted());
    for (const name of names) {
      const manifest = parse(read(`kubernetes/${name}`)) as { kind: keyof typeof kinds };
      const Kind = kinds[manifest.kind] as new (data: never) => { validate(): void };
      new Kind(manifest as never).validate();
    }
  });

  it("runs pods without rights, and lets them drain", () => {
    const deployment: unknown = parse(read("kubernetes/deployment.yaml"));
    const pod = at(deployment, "spec", "template", "spec");
    const container = at(pod, "containers", 0);
    assert.equal(at(pod, "securityContext", "runAsNonRoot"), true);
    assert.equal(at(pod, "automountServiceAccountToken"), false);
    assert.equal(at(container, "securityContext", "readOnlyRootFilesystem"), true);
    assert.equal(at(container, "securityContext", "allowPrivilegeEscalation"), false);
    assert.deepEqual(at(container, "securityContext", "capabilities", "drop"), ["ALL"]);
    const preStop = Number(at(container, "lifecycle", "preStop", "sleep", "seconds"));
    assert.ok(Number(at(pod, "terminationGracePeriodSeconds")) >= preStop + 10);
    const [containerPort] = at(container, "ports") as { name: string; containerPort: number }[];
    assert.deepEqual(containerPort, { name: "grpc", containerPort: port });
    // Over TLS, which gRPC probes do not know.
    const probe = { path: "/readyz", port: "grpc", scheme: "HTTPS" };
    assert.deepEqual(at(container, "readinessProbe", "httpGet"), probe);
    // A node that drains is not to be killed for it.
    assert.ok(at(container, "livenessProbe", "tcpSocket") !== undefined);
    const replicas = Number(at(deployment, "spec", "replicas"));
    const budget: unknown = parse(read("kubernetes/pod-disruption-budget.yaml"));
    assert.ok(Number(at(budget, "spec", "minAvailable")) < replicas);
  });

  it("starts three nodes and names each of them to the proxies", () => {
    const compose: unknown = parse(read("compose.yaml"), { merge: true });
    const services = at(compose, "services") as Record<string, unknown>;
    const nodes = Object.keys(services).filter((name) => name.startsWith("node"));
    assert.equal(nodes.length, 3);
    for (const name of nodes) {
      assert.equal(at(services, name, "read_only"), true);
      assert.deepEqual(at(services, name, "cap_drop"), ["ALL"]);
      assert.match(String(at(services, name, "environment", "RUNLOG_JOURNAL")), /^postgres:\/\//);
    }
    const envoy: unknown = parse(read("envoy.yaml"));
    const addresses = [...every(envoy, "socket_address")].map(
      (one) => `${String(at(one, "address"))}:${String(at(one, "port_value"))}`,
    );
    const nginx = read("nginx.conf");
    for (const name of nodes) {
      assert.ok(addresses.includes(`${name}:${port}`));
      assert.ok(nginx.includes(`server ${name}:${port} `));
    }
    // What is published is loopback's alone.
    for (const published of [...every(compose, "ports")].flat()) {
      assert.match(String(published), /^127\.0\.0\.1:/);
    }
  });

  it("gives every node an access file where the server looks for it", () => {
    const path = /^ {4}RUNLOG_ACCESS=(\S+)$/m.exec(read("Dockerfile"))?.[1];
    assert.ok(path !== undefined);
    const services = at(parse(read("compose.yaml"), { merge: true }), "services");
    for (const [name, service] of Object.entries(services as Record<string, unknown>)) {
      if (!name.startsWith("node")) continue;
      assert.deepEqual(at(service, "volumes"), [`./access.json:${path}:ro`]);
    }
    const pod = at(parse(read("kubernetes/deployment.yaml")), "spec", "template", "spec");
    const variables = at(pod, "containers", 0, "env") as { name: string; value?: string }[];
    assert.equal(variables.find(({ name }) => name === "RUNLOG_ACCESS")?.value, path);
    const mount = String(at(pod, "containers", 0, "volumeMounts", 0, "mountPath"));
    const file = String(at(pod, "volumes", 0, "secret", "items", 0, "path"));
    assert.equal(join(mount, file), path);
    for (const name of ["Dockerfile", "compose.yaml", "kubernetes/deployment.yaml"]) {
      assert.doesNotMatch(read(name), /allow-anyone/);
    }
  });

  it("gives pods a certificate, in a directory so that a new one reaches them", () => {
    const pod = at(parse(read("kubernetes/deployment.yaml")), "spec", "template", "spec");
    const container = at(pod, "containers", 0);
    const variables = at(container, "env") as { name: string; value?: string }[];
    const mounts = at(container, "volumeMounts") as { name: string; mountPath: string }[];
    const mount = mounts.find(({ name }) => name === "tls")?.mountPath ?? "";
    for (const [name, file] of [
      ["RUNLOG_TLS_CERT", "tls.crt"],
      ["RUNLOG_TLS_KEY", "tls.key"],
    ] as const) {
      assert.equal(variables.find((one) => one.name === name)?.value, join(mount, file));
    }
    const volumes = at(pod, "volumes") as { name: string; secret: { items?: unknown } }[];
    assert.equal(volumes.find(({ name }) => name === "tls")?.secret.items, undefined);
    assert.equal(
      at(parse(read("kubernetes/service.yaml")), "spec", "ports", 0, "appProtocol"),
      "https",
    );
  });

  it("has a health check that works with TLS and without", async () => {
    const [, code = ""] = /CMD \["node", "-e", "(.*)"\]/.exec(read("Dockerfile")) ?? [];
    const authority = await Authority.make();
    const own = await authority.signServer();
    for (const tls of [undefined, { cert: own.certPath, key: own.keyPath }]) {
      const server = await startTestServer(tls === undefined ? {} : { tls });
      const script = code.replace(String(port), new URL(server.url).port);
      assert.notEqual(script, code);
      const env = { ...process.env, RUNLOG_TLS_CERT: tls?.cert ?? "" };
      await promisify(execFile)(process.execPath, ["-e", script], { env });
      await server.remove();
      await assert.rejects(promisify(execFile)(process.execPath, ["-e", script], { env }));
    }
    await authority.remove();
  });

  it("names environment variables that the code reads", () => {
    const known = readFileSync(join(directory, "../src/cli/env.ts"), "utf8");
    for (const name of ["Dockerfile", "compose.yaml", "kubernetes/deployment.yaml", "README.md"]) {
      for (const [variable] of read(name).matchAll(/RUNLOG_[A-Z_]+/g)) {
        assert.ok(known.includes(`"${variable}"`), `${name}: ${variable}`);
      }
    }
  });

  it("cuts no stream that a Progress frame keeps alive, and none for its age alone", () => {
    const envoy: unknown = parse(read("envoy.yaml"));
    const route = [...every(envoy, "route")][0];
    assert.equal(at(route, "timeout"), "0s");
    assert.deepEqual([...every(envoy, "request_timeout")], ["0s"]);
    const [idle] = [...every(envoy, "stream_idle_timeout")];
    assert.ok(Number.parseInt(String(idle), 10) >= 60);
    const nginx = read("nginx.conf");
    for (const timeout of ["proxy_read_timeout", "grpc_read_timeout", "grpc_send_timeout"]) {
      const seconds = Number(new RegExp(`${timeout} (\\d+)s;`).exec(nginx)?.[1]);
      assert.ok(seconds >= 60, timeout);
    }
    assert.match(nginx, /proxy_buffering off;/);
    assert.equal(nginx.split("{").length, nginx.split("}").length);
  });
});
