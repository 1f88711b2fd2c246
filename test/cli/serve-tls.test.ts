/** `runlog serve` with TLS, and commands that reach it. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import * as net from "node:net";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { AccessFile, allPermissions, tokenEntry, tokenOf } from "../support/access.ts";
import { Authority, type Certificate } from "../support/certificates.ts";
import { assertFailed, Commands } from "./commands.ts";

const commands = new Commands();
let directory: string;
let authority: Authority;
let own: Certificate;

before(async () => {
  authority = await Authority.make();
  own = await authority.signServer();
});

after(async () => {
  await authority.remove();
});

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "runlog-serve-tls-"));
});

afterEach(async () => {
  await commands.endAll();
  await rm(directory, { recursive: true });
});

const flagsOf = (...more: string[]) => {
  const journal = `sqlite:${join(directory, "journal.db")}`;
  return ["serve", "--listen", "127.0.0.1:0", "--journal", journal, ...more];
};
const tlsFlags = () => ["--tls-cert", own.certPath, "--tls-key", own.keyPath];

describe("runlog serve with TLS", () => {
  it("says where it listens, with TLS and in plaintext", async () => {
    const server = commands.start(flagsOf(...tlsFlags(), "--plaintext-listen", "127.0.0.1:0"));
    const [, secure, plain] = await server.until(
      "stdout",
      /^listening on (https:\S+)\nlistening on (http:\S+) in plaintext\nevents are in /,
    );
    assert.notEqual(new URL(secure!).port, new URL(plain!).port);
    assert.equal((await fetch(`${plain}/healthz`)).status, 200);
    assert.equal((await server.kill("SIGTERM")).status, 0);
  });

  it("takes the files from the environment", async () => {
    const server = commands.start(flagsOf(), {
      RUNLOG_TLS_CERT: own.certPath,
      RUNLOG_TLS_KEY: own.keyPath,
    });
    await server.until("stdout", /^listening on https:\S+\n/);
  });

  it("refuses what does not fit together", async () => {
    for (const [flags, problem] of [
      [["--tls-cert", own.certPath], /--tls-cert and --tls-key belong together/],
      [["--plaintext-listen", "127.0.0.1:0"], /--plaintext-listen is for a server with TLS/],
      [["--tls-client-ca", authority.caPath], /--tls-client-ca is for a server with TLS/],
      [[...tlsFlags(), "--tls-client-ca", authority.caPath], /need --access FILE/],
      [["--trust-xfcc-from", "10.0.0.1"], /need --access FILE/],
      [["--trust-xfcc-from", "10.0.0.0/33"], /"10\.0\.0\.0\/33" is no address of a proxy/],
      [
        [...tlsFlags(), "--plaintext-listen", "0.0.0.0:0"],
        /reach 0\.0\.0\.0.*--plaintext-listen 127/,
      ],
    ] as const) {
      const ended = await commands.run(flagsOf(...flags));
      assert.equal(ended.status, 2, ended.stderr);
      assert.match(ended.stderr, problem);
    }
    const missing = ["--tls-cert", `${own.certPath}.no`, "--tls-key", own.keyPath];
    assertFailed(await commands.run(flagsOf(...missing)), /server\.pem\.no: cannot be read/);
  });

  it("names the port that is in use", async () => {
    const other = net.createServer().listen(0, "127.0.0.1");
    await once(other, "listening");
    const { port } = other.address() as net.AddressInfo;
    const flags = [...tlsFlags(), "--plaintext-listen", `127.0.0.1:${port}`];
    const ended = await commands.run(flagsOf(...flags));
    other.close();
    assertFailed(ended, new RegExp(`127\\.0\\.0\\.1:${port} is in use`));
  });
});

describe("commands over TLS", () => {
  let file: AccessFile;
  let url: string;
  let writer: Certificate;

  beforeEach(async () => {
    const grants = [{ namespace: "default", permissions: allPermissions }];
    file = await AccessFile.make({
      tokens: [tokenEntry("somebody", grants)],
      policy: [{ certificate: "CN=writer", grants }],
    });
    writer = await authority.sign("writer", { subject: "/CN=writer" });
    const more = ["--access", file.path, "--tls-client-ca", authority.caPath];
    const server = commands.start(flagsOf(...tlsFlags(), ...more));
    url = (await server.until("stdout", /^listening on (https:\S+)\n/))[1]!;
    commands.url = url;
  });

  afterEach(async () => {
    await file.remove();
  });

  const ca = () => ["--ca", authority.caPath];
  const mustWork = async (args: readonly string[], env: Record<string, string> = {}) => {
    const ended = await commands.run(args, "", env);
    assert.equal(ended.status, 0, ended.stderr);
    return ended;
  };

  it("show a token of a file, or a certificate, by flags and by variables", async () => {
    const tokenFile = await file.writeText("token", `${tokenOf("somebody")}\n`);
    const own = ["--cert", writer.certPath, "--key", writer.keyPath];
    await mustWork(["runs", "--server", url, ...ca(), "--token-file", tokenFile]);
    await mustWork(["runs", ...ca(), ...own]);
    await mustWork(["runs"], { RUNLOG_CA: authority.caPath, RUNLOG_TOKEN_FILE: tokenFile });
    const { certPath, keyPath } = writer;
    await mustWork(["runs"], {
      RUNLOG_CA: authority.caPath,
      RUNLOG_CERT: certPath,
      RUNLOG_KEY: keyPath,
    });
    // The flag wins over the variable.
    await mustWork(["runs", ...ca(), "--token-file", tokenFile], { RUNLOG_TOKEN: "wrong" });
    const { stdout } = await mustWork(["runs", "--help"], { RUNLOG_TOKEN: "secret" });
    assert.doesNotMatch(String(stdout), /secret/);
  });

  it("hand the way to the server on to a command, and no credentials", async () => {
    const print = "console.log(process.env.RUNLOG_CA, process.env.RUNLOG_KEY)";
    const own = ["--cert", writer.certPath, "--key", writer.keyPath];
    const command = [process.execPath, "-e", print];
    // The command may change its directory, so a relative path would lead it elsewhere.
    const path = relative(process.cwd(), authority.caPath);
    const { stdout } = await mustWork(["exec", "--ca", path, ...own, "--", ...command]);
    assert.equal(String(stdout), `${authority.caPath} undefined\n`);
  });

  it("say what is wrong before they connect", async () => {
    const broken = await authority.write("broken.pem", "no certificate");
    const empty = await file.writeText("empty", "\n");
    for (const [args, problem] of [
      [["--ca", broken], /broken\.pem: holds no certificates/],
      [["--ca", `${broken}.no`], /broken\.pem\.no: cannot be read \(ENOENT\)/],
      [["--cert", writer.certPath], /--cert and --key belong together/],
      [["--cert", writer.certPath, "--key", own.keyPath], /server\.key: is not the key of/],
      [["--token-file", empty], /empty: holds no token/],
      [["--token", "a", "--token-file", empty], /--token and --token-file contradict/],
      [["--server", "http://127.0.0.1:1", ...ca()], /--ca is for https:.* is plaintext/],
      [["--server", "https://user:secret@127.0.0.1:1"], /remove user and password/],
    ] as const) {
      const ended = await commands.run(["runs", ...args]);
      assert.notEqual(ended.status, 0);
      assert.match(ended.stderr, problem);
      assert.doesNotMatch(ended.stderr, /secret/);
    }
  });

  it("say that they do not trust the server, or that it does not trust them", async () => {
    const others = await Authority.make("others");
    const stranger = await others.sign("stranger", { subject: "/CN=writer" });
    const own = ["--cert", stranger.certPath, "--key", stranger.keyPath];
    const few = ["runs", "--connect-timeout", "1"];
    const untrusted = await commands.run([...few, "--ca", others.caPath]);
    assert.match(untrusted.stderr, /its certificate is not trusted/);
    const refused = await commands.run([...few, ...ca(), ...own]);
    assert.match(refused.stderr, /it may have refused --cert/);
    const plain = url.replace("https:", "http:");
    const { stderr } = await commands.run([...few, "--server", plain]);
    assert.ok(stderr.includes(`it speaks TLS: use ${url}`), stderr);
    await others.remove();
  });
});
