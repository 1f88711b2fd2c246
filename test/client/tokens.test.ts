/** When a token provider is asked, on a clock that the tests set. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { UnsecuredJWT } from "jose";
import { ErrorDetailSchema, Reason } from "../../gen/runlog/v1/error_pb.js";
import { markRenewable, TokenError } from "../../src/client/errors.ts";
import { Retries } from "../../src/client/retries.ts";
import { type Credential, type TokenProvider, Tokens } from "../../src/client/tokens.ts";

const hourMs = 3_600_000;
const startMs = Date.parse("2030-01-01T00:00:00Z");

/** A JWT; nobody looks at a signature here. */
const jwt = (expiresAtMs: number, id = "") =>
  new UnsecuredJWT({ sub: `ü${id}`, exp: expiresAtMs / 1000 }).encode();

/** The end of a call, as the server tells it. */
function endFor(reason: Reason): ConnectError {
  const error = new ConnectError("", Code.Unauthenticated);
  error.details.push({ desc: ErrorDetailSchema, value: create(ErrorDetailSchema, { reason }) });
  return error;
}

const expired = () => endFor(Reason.TOKEN_EXPIRED);

describe("a token provider", () => {
  let nowMs: number;
  let asked: number;
  let warnings: string[];
  /** What it does when it is asked for the nth time. */
  let answers: ((signal: AbortSignal) => string | Promise<string>)[];

  const provider: TokenProvider = (signal) => {
    const answer = answers[asked++];
    assert.ok(answer !== undefined, `asked ${asked} times`);
    return answer(signal);
  };
  const tokens = (random = 0.5, timeoutMs = 10_000) =>
    new Tokens(provider, { now: () => nowMs, random: () => random, timeoutMs });
  const shownBy = async (of: Tokens) => (await of.use()).authorization;
  const onWarning = (warning: Error) => {
    if (warning.name === "RunlogWarning") warnings.push(warning.message);
  };

  beforeEach(() => {
    nowMs = startMs;
    asked = 0;
    warnings = [];
    process.on("warning", onWarning);
  });

  afterEach(() => {
    process.off("warning", onWarning);
  });

  it("is asked once by calls that need a token together, and not again while it serves", async () => {
    const answer = Promise.withResolvers<string>();
    answers = [() => answer.promise];
    const of = tokens();
    const calls = Array.from({ length: 20 }, async () => of.use());
    answer.resolve("t1");
    const shown = await Promise.all(calls);
    assert.deepEqual(new Set(shown), new Set([await of.use()]));
    assert.equal(shown[0]?.authorization, "Bearer t1");
    nowMs += 1000 * hourMs;
    assert.equal(await shownBy(of), "Bearer t1");
  });

  it("is asked again once for a token that has expired, whoever says so", async () => {
    answers = [() => "t1", () => "t2", () => "t3"];
    const of = tokens();
    const first = await of.use();
    of.accepted(first);
    assert.deepEqual(
      Array.from({ length: 20 }, () => of.ended(first, expired())),
      Array.from({ length: 20 }, () => true),
    );
    const second = await of.use();
    assert.equal(second.authorization, "Bearer t2");
    // One that ended before and is read late.
    assert.equal(of.ended(first, expired()), true);
    assert.equal(await of.use(), second);
    of.accepted(second);
    assert.equal(of.ended(second, expired()), true);
    assert.equal(await shownBy(of), "Bearer t3");
  });

  it("has the last word with a token that is refused as expired when it is new", async () => {
    answers = [() => "t1", () => "t2", () => "t3"];
    const of = tokens();
    const first = await of.use();
    assert.equal(of.ended(first, expired()), true);
    const second = await of.use();
    assert.deepEqual([of.ended(second, expired()), of.ended(second, expired())], [false, false]);
    // A later call is served where that is possible again.
    const third = await of.use();
    of.accepted(third);
    assert.equal(of.ended(third, expired()), true);
  });

  it("is asked again where its token runs out on the way, however often", async () => {
    const give = () => jwt(nowMs + 50);
    answers = [give, give, give, give];
    const of = tokens();
    for (let round = 1; round <= 4; round++) {
      const shown = await of.use();
      assert.equal(asked, round);
      nowMs += 50;
      assert.equal(of.ended(shown, expired()), true);
    }
  });

  it("is asked anew by the next call after any other UNAUTHENTICATED, which is final", async () => {
    for (const error of [
      endFor(Reason.UNAUTHENTICATED),
      new ConnectError("HTTP 401", Code.Unauthenticated),
    ]) {
      asked = 0;
      answers = [() => "t1", () => "t2"];
      const of = tokens();
      const first = await of.use();
      of.accepted(first);
      assert.equal(of.ended(first, error), false);
      assert.equal(await shownBy(of), "Bearer t2");
    }
  });

  it("is asked ahead of a JWT's end, at a random time, while the token is still used", async () => {
    for (const [random, share] of [
      [0, 0.7],
      [0.5, 0.8],
      [0.999, 0.8998],
    ] as const) {
      nowMs = startMs;
      asked = 0;
      const [t1, t2] = [jwt(startMs + hourMs, "1"), jwt(startMs + 2 * hourMs, "2")];
      const second = Promise.withResolvers<string>();
      answers = [() => t1, () => second.promise];
      const of = tokens(random);
      await of.use();
      nowMs = startMs + share * hourMs - 1;
      assert.equal(await shownBy(of), `Bearer ${t1}`);
      assert.equal(asked, 1);
      nowMs += 2;
      assert.equal(await shownBy(of), `Bearer ${t1}`);
      assert.equal(await shownBy(of), `Bearer ${t1}`);
      assert.equal(asked, 2);
      second.resolve(t2);
      while ((await shownBy(of)) !== `Bearer ${t2}`) await Promise.resolve();
      assert.equal(asked, 2);
    }
  });

  it("is asked while streams are open and nobody calls, and no longer", async () => {
    const second = Promise.withResolvers<void>();
    // A second is the least that is waited for, whatever is left of the token.
    answers = [
      () => jwt(startMs + 1_100, "1"),
      () => {
        second.resolve();
        return jwt(startMs + hourMs, "2");
      },
    ];
    const of = tokens();
    const first = await of.use();
    const closed = [of.opened(), of.opened()];
    nowMs = startMs + 1_050;
    closed[0]?.();
    closed[0]?.();
    await second.promise;
    while (of.use() === first) await Promise.resolve();
    closed[1]?.();
    assert.equal(asked, 2);
    // The test fails where a timer is left.
  });

  it("is asked by whoever calls first after a sleep in which the token has expired", async () => {
    answers = [() => jwt(startMs + hourMs, "1"), () => jwt(startMs + 9 * hourMs, "2")];
    const of = tokens();
    await of.use();
    nowMs = startMs + 8 * hourMs;
    const calls = [of.use(), of.use()];
    const shown = new Set([await calls[0], await calls[1]]);
    assert.equal(shown.size, 1);
    assert.equal(await shownBy(of), `Bearer ${jwt(startMs + 9 * hourMs, "2")}`);
    assert.equal(asked, 2);
  });

  it("is believed where the token has expired by this clock, which may be wrong", async () => {
    answers = [() => jwt(startMs - hourMs)];
    const of = tokens();
    const first = await of.use();
    nowMs += hourMs;
    assert.equal(await of.use(), first);
  });

  it("fails the calls of that moment, warns once, and is asked again by the next one", async () => {
    const cause = new Error("no network");
    answers = [
      () => Promise.reject(cause),
      () => {
        throw cause;
      },
      () => "two words",
      () => undefined as unknown as string,
      () => "t1",
    ];
    const of = tokens();
    const calls = await Promise.allSettled([of.use(), of.use()]);
    for (const call of calls) {
      assert.ok(call.status === "rejected" && call.reason instanceof TokenError);
      assert.equal(call.reason.cause, cause);
      assert.match(call.reason.message, /the token provider failed: no network/);
      assert.equal(call.reason.isFinal, false);
    }
    await assert.rejects(async () => of.use(), /no network/);
    await assert.rejects(async () => of.use(), /something that can be no token/);
    await assert.rejects(async () => of.use(), /something that can be no token/);
    assert.equal(await shownBy(of), "Bearer t1");
    while (warnings.length === 0) await once(process, "warning");
    assert.deepEqual(warnings, [
      "the token provider failed: no network; it is asked again, with growing waits",
    ]);
  });

  it("says by its error that there will be no token", async () => {
    const final = new TokenError("signed out", { isFinal: true });
    answers = [() => Promise.reject(final)];
    await assert.rejects(
      async () => tokens().use(),
      (error) => error === final,
    );
    while (warnings.length === 0) await once(process, "warning");
    assert.deepEqual(warnings, ["signed out"]);
  });

  it("fails nobody where it throws ahead of time, and is asked again after a while", async () => {
    const failed = Promise.withResolvers<void>();
    answers = [
      () => jwt(startMs + hourMs, "1"),
      () => {
        failed.resolve();
        throw new Error("not yet");
      },
      () => jwt(startMs + 2 * hourMs, "2"),
    ];
    const of = tokens(0.5);
    const first = await of.use();
    nowMs = startMs + 0.9 * hourMs;
    assert.equal(await of.use(), first);
    await failed.promise;
    while (warnings.length === 0) await once(process, "warning");
    // Half of the 200 ms that the first wait takes at most.
    nowMs += 99;
    assert.equal(await of.use(), first);
    assert.equal(asked, 2);
    nowMs += 2;
    assert.equal(await of.use(), first);
    assert.equal(asked, 3);
  });

  it("is given up where it does not answer in time, and hears so", async () => {
    let isAborted = false;
    answers = [
      (signal) =>
        new Promise(() => {
          signal.addEventListener("abort", () => {
            isAborted = true;
          });
        }),
      () => "t2",
    ];
    const of = tokens(0.5, 20);
    const calls = await Promise.allSettled([of.use(), of.use()]);
    for (const call of calls) {
      assert.ok(call.status === "rejected" && call.reason instanceof TokenError);
      assert.match(call.reason.message, /gave no token within 20 ms/);
    }
    assert.ok(isAborted);
    assert.equal(await shownBy(of), "Bearer t2");
  });

  it("is waited for no longer than the caller's signal allows", async () => {
    answers = [() => new Promise(() => undefined)];
    const reason = new Error("enough");
    const giveUp = new AbortController();
    const call = tokens().use(giveUp.signal) as Promise<Credential>;
    giveUp.abort(reason);
    await assert.rejects(call, (error) => error === reason);
  });
});

describe("a stream whose token ends", () => {
  it("is opened again at once, and after a wait where that comes twice within a second", () => {
    let nowMs = 0;
    const retries = new Retries(() => nowMs);
    const end = expired();
    assert.deepEqual([retries.isEndOfToken(end), retries.isFinal(end)], [false, true]);
    markRenewable(end);
    assert.equal(retries.isEndOfToken(end), true);
    nowMs += 999;
    assert.deepEqual([retries.isEndOfToken(end), retries.isFinal(end)], [false, false]);
    nowMs += 1_000;
    assert.equal(retries.isEndOfToken(end), true);
  });
});

describe("a token that stays", () => {
  it("is shown until the server refuses it, and then once more", async () => {
    const text = jwt(startMs + hourMs);
    let nowMs = startMs;
    const of = new Tokens(text, { now: () => nowMs });
    const first = await of.use();
    assert.equal(first.authorization, `Bearer ${text}`);
    nowMs += 2 * hourMs;
    assert.equal(await of.use(), first);
    assert.equal(of.ended(first, expired()), true);
    const again = await of.use();
    assert.equal(again.authorization, `Bearer ${text}`);
    assert.equal(of.ended(again, expired()), false);
  });

  it("is refused at once where it can be no token", () => {
    for (const text of ["", "two words", "line\n", "ü"]) {
      assert.throws(() => new Tokens(text), TypeError);
    }
  });
});
