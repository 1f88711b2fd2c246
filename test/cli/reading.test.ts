/** What tail, read, fork and runs do with other people's words, and with what is not there. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { cut, cutFront, fill, printable, printableJson, widthOf } from "../../src/cli/text.ts";
import { assertFailed, Commands, main, textsOf } from "./commands.ts";

describe("text of others on a terminal", () => {
  const steering =
    /[\p{Cc}\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\u{e0000}-\u{e007f}]/u;

  it("neither controls the terminal, nor hides, nor reorders text beside it", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 40 }), (text) => {
        assert.doesNotMatch(printable(text), steering);
        const json = JSON.stringify({ text });
        assert.doesNotMatch(printableJson(json), steering);
        assert.deepEqual(JSON.parse(printableJson(json)), { text });
      }),
      { numRuns: 2_000 },
    );
    assert.equal(printable("a\u202eb\u200bc\u{e0041}\u3164"), "a\\u202eb\\u200bc\\u{e0041}\\u3164");
    // An emoji of several is one.
    assert.equal(printable("👩‍👩‍👧 ❤️ é"), "👩‍👩‍👧 ❤️ é");
  });

  it("is laid out by the columns that it takes", () => {
    assert.deepEqual(["日本", "👩‍👩‍👧", "é", "e\u0301", "abc"].map(widthOf), [4, 2, 1, 1, 3]);
    assert.equal(cut("日本語テキスト", 6), "日本…");
    assert.equal(cutFront("日本語テキスト", 6), "…スト");
    assert.equal(fill("日本", 6), "日本  ");
    const anything = fc.string({ unit: "grapheme", maxLength: 30 }).map(printable);
    fc.assert(
      fc.property(anything, fc.integer({ min: 1, max: 40 }), (text, columns) => {
        assert.ok(widthOf(cut(text, columns)) <= columns);
        assert.ok(widthOf(cutFront(text, columns)) <= columns);
      }),
    );
  });
});

describe("reading from the command line", () => {
  const servers = new Commands();
  const commands = new Commands();
  let directory: string;
  let tests = 0;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "runlog-reading-"));
    await servers.serve(join(directory, "journal.db"));
    commands.url = servers.url;
  });

  beforeEach(() => {
    commands.namespace = `test-${++tests}`;
  });

  afterEach(() => commands.endAll());

  after(async () => {
    await servers.endAll();
    await rm(directory, { recursive: true });
  });

  const lines = async (...flags: string[]) =>
    (await commands.run(["tail", "--until", "caught-up", ...flags])).stdout.toString();

  it("lets no event look like a fact about its run", async () => {
    await commands.run(["ingest", "--run", "r"], '{"type":"< succeeded"}\n{"type":"> started"}\n');
    const output = await lines("--run", "r");
    assert.match(output, / {2}"< succeeded"/);
    assert.match(output, / {2}"> started"/);
    assert.equal(output.match(/ {2}< succeeded/g)?.length, 1);
  });

  it("waits for a run that does not exist yet where it is asked to, and tells FAILED from SUCCEEDED", async () => {
    const early = commands.start([
      "tail",
      "--run",
      "r",
      "--wait",
      "--until",
      "finished",
      "--exit-status",
    ]);
    // Nothing tells that it waits: whichever is first, it sees all.
    await commands.run(["exec", "--run", "r", "--", "false"]);
    const { status, stdout } = await early.ended;
    assert.equal(status, 3);
    assert.match(stdout.toString(), /< failed/);
    await commands.run(["exec", "--run", "s", "--", "true"]);
    const flags = ["tail", "--until", "finished", "--exit-status"];
    assert.equal((await commands.run([...flags, "--run", "s"])).status, 0);
    assert.equal((await commands.run([...flags, "--run", "r", "s"])).status, 3);
    assertFailed(await commands.run(["tail", "--run", "none"]), /RUN_NOT_FOUND/);
  });

  it("ends when the reader of its output has left, although nothing more comes", async () => {
    await commands.run(["ingest", "--run", "r"], "1\n");
    const script = `"${process.execPath}" "${main}" tail --all | head -n 1`;
    const env = {
      ...process.env,
      RUNLOG_SERVER: commands.url,
      RUNLOG_NAMESPACE: commands.namespace,
    };
    const shell = spawn("sh", ["-c", script], { env, stdio: ["ignore", "pipe", "inherit"] });
    const [status] = (await once(shell, "close")) as [number];
    assert.equal(status, 0);
  });

  it("does not take a full disk for success", async () => {
    await commands.run(["ingest", "--run", "r"], "1\n");
    for (const args of [["tail", "--all", "--until", "caught-up"], ["runs"], ["read", "--all"]]) {
      const script = `"${process.execPath}" "${main}" ${args.join(" ")} > /dev/full`;
      const env = {
        ...process.env,
        RUNLOG_SERVER: commands.url,
        RUNLOG_NAMESPACE: commands.namespace,
      };
      const shell = spawn("sh", ["-c", script], { env, stdio: ["ignore", "ignore", "pipe"] });
      let stderr = "";
      shell.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
      const [status] = (await once(shell, "close")) as [number];
      assert.equal(status, 1, args.join(" "));
      assert.match(stderr, /cannot write the output: .*ENOSPC/);
    }
  });

  it("forks at the number that tail shows", async () => {
    await commands.run(["ingest", "--run", "r"], "1\n2\n3\n");
    const seq = /^ *(\d+) .* 2$/m.exec(await lines("--run", "r"))![1]!;
    const forked = await commands.run(["fork", "r", "--at-seq", seq, "--run", "f"]);
    assert.equal(forked.status, 0, forked.stderr);
    const inherited = await commands.records("--run", "f", "--inherited", "--until", "caught-up");
    assert.deepEqual(textsOf(inherited, "r"), ["1", "2"]);
    assertFailed(
      await commands.run(["fork", "r", "--at-seq", "1"]),
      /seq 1 is not an event of run "r"/,
    );
  });

  it("says that a namespace does not exist, and creates none by reading", async () => {
    for (const args of [
      ["tail", "--all", "--until", "caught-up"],
      ["read", "--all"],
      ["runs"],
      ["cancel", "r"],
      ["fork", "r"],
    ]) {
      assertFailed(
        await commands.run(args),
        /namespace "test-\d+" does not exist: producers create one/,
      );
    }
    const { stdout } = await commands.run(["namespaces"]);
    assert.doesNotMatch(stdout.toString(), new RegExp(`^${commands.namespace}\\b`, "m"));
  });
});

describe("a server that cannot be reached", () => {
  const commands = new Commands();
  let http: Server;

  before(async () => {
    http = createServer((_, response) => response.end("hello")).listen(0, "127.0.0.1");
    await once(http, "listening");
  });

  after(() => http.close());

  afterEach(() => commands.endAll());

  const portOf = (server: { address(): unknown }) => (server.address() as AddressInfo).port;
  const runs = (server: string, ...flags: string[]) =>
    commands.run(["runs", "--server", server, "--connect-timeout", "1", ...flags]);

  it("is explained: another service, TLS for none and the reverse, silence, nothing at all", async () => {
    const url = `http://127.0.0.1:${portOf(http)}`;
    assertFailed(
      await runs(url),
      /another program than runlog answers there \(HTTP\/1\.1 200 OK\)/,
    );
    assertFailed(
      await runs(url.replace("http:", "https:")),
      /it does not speak TLS: use http:\/\/127/,
    );
    const tls = createTcpServer((socket) => {
      socket.on("error", () => undefined);
      // What every TLS server says to plain bytes: a fatal alert.
      socket.once("data", () => socket.end(Buffer.of(0x15, 3, 1, 0, 2, 2, 70)));
    }).listen(0, "127.0.0.1");
    // It reads, or it would not see that the client has closed.
    const silent = createTcpServer((socket) => socket.on("error", () => undefined).resume());
    silent.listen(0, "127.0.0.1");
    await Promise.all([once(tls, "listening"), once(silent, "listening")]);
    try {
      assertFailed(
        await runs(`http://127.0.0.1:${portOf(tls)}`),
        /it speaks TLS: use https:\/\/127/,
      );
      assertFailed(
        await runs(`http://127.0.0.1:${portOf(silent)}`),
        /accepts connections there and does not answer/,
      );
      assertFailed(await runs("http://127.0.0.1:1"), /is `runlog serve` running there/);
    } finally {
      tls.close();
      silent.close();
    }
  });

  it("is refused before anything is tried where the URL cannot be right", async () => {
    const problems: readonly (readonly [string, RegExp])[] = [
      ["localhost:7400", /use a URL such as http:\/\/localhost:7400/],
      ["ws://x", /use a URL such as/],
      ["http://user:secret@x", /remove user and password/],
      ["http://x?y", /without \? and #/],
      ["http://a,,http://b", /empty URL from the list/],
    ];
    for (const [server, problem] of problems) {
      const { status, stderr } = await runs(server);
      assert.equal(status, 2, server);
      assert.match(stderr, problem);
      assert.doesNotMatch(stderr, /secret|at .*\.ts/);
    }
  });

  it("gets the headers and the token that a command was given", async () => {
    const seen: (string | undefined)[] = [];
    const { createServer: createHttp2Server } = await import("node:http2");
    const server = createHttp2Server().listen(0, "127.0.0.1");
    server.on("stream", (stream, headers) => {
      stream.on("error", () => undefined);
      seen.push(headers["authorization"], headers["x-tenant"] as string);
      stream.respond(
        { ":status": 200, "content-type": "application/grpc", "grpc-status": "7" },
        { endStream: true },
      );
    });
    await once(server, "listening");
    try {
      const url = `http://127.0.0.1:${portOf(server)}`;
      const ended = await commands.run(["runs", "--server", url, "--header", "X-Tenant: a b"], "", {
        RUNLOG_TOKEN: "secret",
      });
      assertFailed(ended, /check --token and --header/);
      assert.deepEqual(seen.slice(0, 2), ["Bearer secret", "a b"]);
      assert.doesNotMatch(ended.stderr, /secret/);
    } finally {
      server.close();
    }
  });
});
