/** What can be said of deploy/ without an engine that runs it: its schemas, and the code that it names. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { validate as validateDockerfile } from "dockerfile-utils";
import { Deployment } from "kubernetes-models/apps/v1";
import { NetworkPolicy } from "kubernetes-models/networking.k8s.io/v1";
import { PodDisruptionBudget } from "kubernetes-models/policy/v1";
import { Namespace, Service, ServiceAccount } from "kubernetes-models/v1";
import { parse } from "yaml";
import { Permission } from "../gen/runlog/v1/auth_pb.js";
import { Authority } from "./support/certificates.ts";
import { runMakeSecrets, Secrets } from "./support/secrets.ts";
import { startTestServer } from "./support/server.ts";
import { wires } from "./support/wire.ts";

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
      // The directory: what is mounted as a file stays the file that it was.
      assert.deepEqual(at(service, "volumes"), [`./secrets/node:${dirname(path)}:ro`]);
    }
    const pod = at(parse(read("kubernetes/deployment.yaml")), "spec", "template", "spec");
    const variables = at(pod, "containers", 0, "env") as { name: string; value?: string }[];
    assert.equal(variables.find(({ name }) => name === "RUNLOG_ACCESS")?.value, path);
    const mount = String(at(pod, "containers", 0, "volumeMounts", 0, "mountPath"));
    assert.equal(mount, dirname(path));
    const items = at(pod, "volumes", 0, "secret", "items") as { path: string }[];
    assert.deepEqual(
      items.map((item) => item.path),
      ["access.json", "minting.pem"],
    );
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
    const policy: unknown = parse(read("kubernetes/network-policy.yaml"));
    assert.equal(at(policy, "spec", "ingress", 0, "ports", 0, "port"), port);
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

  describe("make-secrets", () => {
    let secrets: Secrets;

    before(async () => {
      secrets = await Secrets.make();
    });

    after(async () => {
      await secrets.remove();
    });

    it("makes a token and keys that a node takes", async () => {
      const server = await startTestServer({
        accessFile: secrets.path("node/access.json"),
        tls: secrets.pair("node"),
      });
      const client = await wires[0]!.connect(server.url, secrets.token, secrets.tls);
      try {
        const grants = [{ permissions: [Permission.READ] }];
        assert.match((await client.auth.mintToken({ grants, name: "browser" })).token, /\..+\./);
        await client.admin.listNamespaces({});
      } finally {
        client.close();
        await server.remove();
      }
    });

    it("makes every file that the proxies and Compose name", () => {
      const services = at(parse(read("compose.yaml"), { merge: true }), "services");
      const all = services as Record<string, unknown>;
      const mounts = at(all, "envoy", "volumes") as string[];
      assert.ok(mounts.includes("./secrets/proxy:/etc/runlog:ro"));
      for (const [name, owner] of [
        ["envoy.yaml", "proxy"],
        ["nginx.conf", "proxy"],
        ["compose.yaml", "node"],
      ]) {
        const named = [...read(name!).matchAll(/\/etc\/runlog\/([a-z.]+)/g)];
        assert.ok(named.length >= 2);
        for (const [, file] of named) assert.ok(existsSync(secrets.path(`${owner}/${file}`)), file);
      }
      for (const name of ["postgres", "node1", "node2", "node3"]) {
        assert.equal(at(all, name, "env_file"), "./secrets/postgres.env");
      }
      const variables = readFileSync(secrets.path("postgres.env"), "utf8");
      const password = /^POSTGRES_PASSWORD=([0-9a-f]{64})$/m.exec(variables)?.[1];
      assert.match(
        variables,
        new RegExp(`^RUNLOG_JOURNAL=postgres://runlog:${password}@postgres/runlog$`, "m"),
      );
    });

    it("gives nodes their names, and the one by which proxies know them to nobody else", () => {
      const namesOf = (owner: "node" | "proxy") => {
        const { subjectAltName = "" } = new X509Certificate(readFileSync(secrets.pair(owner).cert));
        return subjectAltName.split(", ");
      };
      for (const name of ["node1", "node2", "node3", "localhost", "runlog-node"]) {
        assert.ok(namesOf("node").includes(`DNS:${name}`), name);
      }
      for (const owner of ["node", "proxy"] as const) {
        assert.ok(namesOf(owner).includes("DNS:localhost"));
        assert.ok(namesOf(owner).includes("IP Address:127.0.0.1"));
      }
      assert.ok(!namesOf("proxy").includes("DNS:runlog-node"));
    });

    it("leaves what is there", async () => {
      const before = readFileSync(secrets.path("node/minting.pem"));
      await assert.rejects(runMakeSecrets(secrets.directory), /exists, and is left as it is/);
      assert.deepEqual(readFileSync(secrets.path("node/minting.pem")), before);
      const made = readdirSync(dirname(secrets.directory));
      assert.deepEqual(made, ["secrets"]);
    });

    it("lets the image's user read, and nobody else", async () => {
      const [, user] = /^USER (\d+):/m.exec(read("Dockerfile")) ?? [];
      const compose: unknown = parse(read("compose.yaml"));
      assert.equal(at(compose, "services", "envoy", "user"), `${user}:${user}`);
      const parent = await mkdtemp(join(tmpdir(), "runlog-secrets-"));
      const directories = [secrets.directory];
      if (process.getuid?.() === 0) {
        // As it is for those who are not root, too.
        await chown(parent, 65_534, 65_534);
        directories.push(join(parent, "secrets"));
        await runMakeSecrets(join(parent, "secrets"), { uid: 65_534, gid: 65_534 });
      }
      for (const top of directories) {
        const isClosed = (path: string) => (statSync(path).mode & 0o077) === 0;
        const isTheirs = (path: string) => statSync(path).uid === Number(user);
        assert.ok(isClosed(join(top, "postgres.env")));
        for (const mounted of ["node", "proxy"].map((name) => join(top, name))) {
          const files = readdirSync(mounted).map((name) => join(mounted, name));
          for (const path of [mounted, ...files]) {
            assert.ok(isTheirs(path) || statSync(path).mode & 0o004, path);
            const isSecret = !path.endsWith(".crt");
            assert.ok(!isSecret || isClosed(path) || isClosed(top), path);
          }
        }
        assert.deepEqual(readdirSync(top).toSorted(), ["ca.crt", "node", "postgres.env", "proxy"]);
      }
      await rm(parent, { recursive: true });
    });

    it("makes them where neither git nor an image takes them", () => {
      // What is not finished yet has a longer name.
      assert.ok(read("../.gitignore").split("\n").includes("/deploy/secrets*"));
      assert.equal(read("Dockerfile.dockerignore").trim().split("\n").at(-1), "deploy/secrets*");
    });
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
