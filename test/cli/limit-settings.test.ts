import assert from "node:assert/strict";
import fc from "fast-check";
import { limitLines, offeredLimits, parseLimits } from "../../src/cli/limit-settings.ts";
import {
  bytesText,
  exactDurationText,
  parseBytes,
  parseDurationMs,
} from "../../src/cli/quantities.ts";
import { defaultLimits } from "../../src/limits.ts";

const parse = (...texts: string[]) =>
  parseLimits(texts.map((text) => ({ source: "--limit", text })));
const limitsOf = (...texts: string[]) => {
  const parsed = parse(...texts);
  assert.ok(parsed.t === "limits", JSON.stringify(parsed));
  return parsed.limits;
};
const mistakesOf = (...texts: string[]) => {
  const parsed = parse(...texts);
  assert.ok(parsed.t === "mistakes");
  return parsed.mistakes;
};

describe("quantities", () => {
  it("are read in every unit, and nothing else is", () => {
    const bytes = ["0", "1000", "64KiB", "64kib", "1.5MiB", "2GiB"].map(parseBytes);
    assert.deepEqual(bytes, [0, 1_000, 65_536, 65_536, 1_572_864, 2_147_483_648]);
    const durations = ["250ms", "15s", "1.5m", "30M", "12h", "7d"].map(parseDurationMs);
    assert.deepEqual(durations, [250, 15_000, 90_000, 1_800_000, 43_200_000, 604_800_000]);
    const neither = ["", "-1", "1e3", "1 MiB", "MiB", "0.3ms", "0.1", "0x10", "Infinity", "٣"];
    for (const text of [...neither, "1MB", "1k", "7d", "9999999999GiB"]) {
      assert.equal(parseBytes(text), undefined, text);
    }
    for (const text of [...neither, "15", "1w", "1KiB"]) {
      assert.equal(parseDurationMs(text), undefined, text);
    }
  });

  it("are read back as they are written", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 45 }), (number) => {
        assert.equal(parseBytes(bytesText(number)), number);
        assert.equal(parseDurationMs(exactDurationText(number)), number);
      }),
    );
    const texts = [bytesText(256 * 1024), bytesText(1_000), exactDurationText(604_800_000)];
    assert.deepEqual(texts, ["256KiB", "1000", "7d"]);
    assert.deepEqual([bytesText(0), exactDurationText(90_000)], ["0", "90s"]);
  });
});

describe("limit settings", () => {
  it("change what they name and leave the defaults otherwise; the last one of a name counts", () => {
    assert.deepEqual(limitsOf(), defaultLimits);
    assert.deepEqual(
      limitsOf("max-event-bytes=256KiB", "progress-interval=1m", "max-labels=3", "max-labels=0"),
      {
        ...defaultLimits,
        maxEventBytes: 256 * 1024,
        progressIntervalMs: 60_000,
        maxLabels: 0,
      },
    );
  });

  it("take each limit's bounds and nothing beyond", () => {
    for (const { name, key, spec } of offeredLimits) {
      const unit = spec.unit === "milliseconds" ? "ms" : "";
      const { min, max } = spec.range;
      for (const value of [min, max]) {
        // ExclusiveWork it may contradict the other defaults, but never its own range.
        const parsed = parse(`${name}=${value}${unit}`);
        const lines = parsed.t === "mistakes" ? parsed.mistakes : [];
        assert.ok(!lines.some((line) => line.startsWith("--limit")), lines.join("\n"));
        if (parsed.t === "limits") assert.equal(parsed.limits[key], value);
      }
      for (const value of min === 0 ? [max + 1] : [min - 1, max + 1]) {
        assert.match(mistakesOf(`${name}=${value}${unit}`)[0]!, /^--limit .*: must be \S+ to \S+$/);
      }
      assert.ok(spec.default >= min && spec.default <= max, `${name}: its default is in its range`);
    }
  });

  it("tell all that is wrong at once", () => {
    const lines = mistakesOf(
      "tail-bytes",
      "max-evnt-bytes=1MiB",
      "tail-bytes=1MB",
      "progress-interval=5",
      "max-labels=1.5",
      "max-labels=33",
      "max-event-bytes=5MiB",
      "frame-bytes=1KiB",
    );
    assert.deepEqual(
      lines.filter((line) => !line.startsWith("the limits are")),
      [
        "--limit tail-bytes: use name=value",
        "--limit max-evnt-bytes=1MiB: no such limit",
        "--limit tail-bytes=1MB: use bytes: a number, or one with KiB, MiB or GiB",
        "--limit progress-interval=5: use a duration: a number with ms, s, m, h or d",
        "--limit max-labels=1.5: use a whole number",
        "--limit max-labels=33: must be 0 to 32",
        "--limit frame-bytes=1KiB: no such limit",
        "max-append-bytes (4MiB) must be at least 1KiB above max-event-bytes (5MiB): an append has at least one event",
      ],
    );
    const list = lines.find((line) => line.startsWith("the limits are"));
    for (const { name } of offeredLimits) assert.ok(list?.includes(name));
  });

  it("have to fit together", () => {
    assert.match(
      mistakesOf("max-append-bytes=5MiB")[0]!,
      /^max-message-bytes \(8MiB\) must be at least twice /,
    );
    assert.equal(mistakesOf("max-event-bytes=4MiB").length, 1);
    limitsOf("max-event-bytes=16MiB", "max-append-bytes=17MiB", "max-message-bytes=34MiB");
  });

  it("are listed for --help in lines of a terminal's width", () => {
    for (const line of limitLines()) assert.ok(line.length <= 100, line);
  });
});
