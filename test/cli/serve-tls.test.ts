/** `runlog serve` with TLS, and commands that reach it. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import * as net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
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
