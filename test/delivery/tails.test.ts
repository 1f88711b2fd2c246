/** What the tails cost: bytes, and work. */
import assert from "node:assert/strict";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { RecordKind } from "../../gen/runlog/v1/record_pb.js";
import type { Scope } from "../../src/delivery/filter.ts";
import { KindFilter } from "../../src/delivery/kind-filter.ts";
import { Tails } from "../../src/delivery/tails.ts";
import type { CommittedRecord } from "../../src/journal/committed-record.ts";

const MiB = 1024 * 1024;
const bound = 8 * MiB;
const all = { kind: "all" } as const;
const everything = { scope: all, types: undefined, kinds: undefined };
const lifecycle = KindFilter.parse("kinds", [RecordKind.LIFECYCLE]);
const page = { maxRecords: 10, maxBytes: MiB };

interface Shape {
  readonly dataBytes: number;
  readonly runs: number;
  readonly depth: number;
}

function* recordsOf({ dataBytes, runs, depth }: Shape): Generator<CommittedRecord> {
  const lineages: string[][] = [];
  for (let seq = 1; ; seq++) {
    const run = seq % runs;
    lineages[run] ??= Array.from(
      { length: depth },
      (_, edges) => `${edges === 0 ? run : Math.floor(run / 100)}-${edges}-0197c1d2-1111-7000`,
    );
    const data = new Uint8Array(dataBytes);
    const types = `token${seq % 7}`;
    yield { firstSeq: seq, count: 1, lineage: lineages[run], firstRunSeq: seq, types, data };
  }
}

const one = (firstSeq: number, runId = "r"): CommittedRecord => ({
  firstSeq,
  count: 1,
  lineage: [runId],
  firstRunSeq: firstSeq,
  types: "test",
  data: new Uint8Array(10),
});

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

describe("the tails of namespaces", () => {
  /** Bytes that are in use after a full collection, those of array buffers included. */
  function bytesInUse(): number {
    collect();
    collect();
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    return heapUsed + arrayBuffers;
  }

  for (const shape of [
    { dataBytes: 40, runs: 100, depth: 1 },
    { dataBytes: 150, runs: 100, depth: 8 },
    { dataBytes: 150, runs: 1_000_000, depth: 1 },
    { dataBytes: 150, runs: 1_000_000, depth: 4 },
    { dataBytes: 4_000, runs: 100, depth: 2 },
  ]) {
    it(`take the memory that they are allowed, where records are ${JSON.stringify(shape)}`, () => {
      const before = bytesInUse();
      const tails = new Tails(bound);
      // Twice as many as there is room for.
      let full = Number.POSITIVE_INFINITY;
      for (const record of recordsOf(shape)) {
        tails.publish("default", [record], 0);
        const { firstSeq: seq } = record;
        const isFirstGone = tails.read("default", everything, 0, page) === undefined;
        if (isFirstGone) full = Math.min(full, seq);
        if (seq > 2 * full) break;
      }
      const used = bytesInUse() - before;
      console.log(`      ${(used / MiB).toFixed(1)} MiB for ${(tails.bytes / MiB).toFixed(1)}`);
      assert.ok(tails.bytes <= bound);
      assert.ok(used < 1.25 * bound, `${used / MiB} MiB`);
      assert.ok(used > 0.75 * tails.bytes, `${used / MiB} MiB`);
    });
  }

  it("take the memory that they are allowed, where each namespace has one record", () => {
    const before = bytesInUse();
    const tails = new Tails(bound);
    for (let n = 0; n < 20_000; n++) tails.publish(`namespace-${n}`, [one(1, `run-${n}`)], 0);
    const used = bytesInUse() - before;
    console.log(`      ${(used / MiB).toFixed(1)} MiB for ${tails.count} namespaces`);
    assert.ok(tails.bytes <= bound && tails.bytes > bound - 10_000, `${tails.bytes}`);
    assert.ok(used < 1.25 * bound, `${used / MiB} MiB`);
    assert.ok(used > 0.75 * tails.bytes, `${used / MiB} MiB`);
  });

  it("give way at once where they are allowed less", () => {
    const tails = new Tails(MiB);
    for (let seq = 1; seq <= 1_000; seq++) tails.publish("a", [one(seq)], 0);
    const full = tails.bytes;
    tails.setMaxBytes(full / 2);
    assert.ok(tails.bytes <= full / 2 && tails.bytes > full / 2 - 2_000, `${tails.bytes}`);
    assert.equal(tails.read("a", everything, 0, page), undefined);
    assert.equal(tails.read("a", everything, 990, page)?.records.length, 10);
    tails.setMaxBytes(0);
    assert.equal(tails.bytes, 0);
  });

  it("are there while they hold something or somebody waits for news", () => {
    const seen: string[] = [];
    const tails = new Tails(1_000, {
      onWatched: (name) => seen.push(`+${name}`),
      onUnwatched: (name) => seen.push(`-${name}`),
    });
    const unwatch = tails.watch("watched", everything, () => undefined);
    for (let n = 0; n < 1_000; n++) {
      tails.read(`n${n}`, everything, 0, page);
      tails.publish(`n${n}`, [one(1)], 0);
      tails.forget(`o${n}`);
      tails.restart(`p${n}`, 7, 0);
    }
    assert.ok(tails.count <= 3, `${tails.count}`);
    unwatch();
    unwatch();
    assert.deepEqual(seen, ["+watched", "-watched"]);
    tails.setMaxBytes(0);
    assert.equal(tails.count, 0);
  });

  it("are dropped where nobody uses them", () => {
    const tails = new Tails(64 * MiB);
    const namesLeft = () =>
      ["once", "left", "busy", "watched"].filter(
        (name) => tails.read(name, everything, 0, page) !== undefined,
      );
    const leave = tails.watch("left", everything, () => undefined);
    tails.watch("watched", everything, () => undefined);
    for (const name of ["once", "left", "busy", "watched"]) tails.publish(name, [one(1)], 0);
    tails.dropIdle();
    assert.equal(tails.count, 4);
    tails.publish("busy", [one(2)], 0);
    leave();
    tails.dropIdle();
    assert.deepEqual(namesLeft(), ["left", "busy", "watched"]);
    tails.dropIdle();
    tails.dropIdle();
    assert.deepEqual(namesLeft(), ["watched"]);
    assert.deepEqual([...tails.watched()], ["watched"]);
    assert.equal(tails.count, 1);
    // It begins anew where it is used again.
    tails.publish("once", [one(2)], 0);
    assert.equal(tails.read("once", everything, 0, page), undefined);
    assert.equal(tails.read("once", everything, 1, page)?.records.length, 1);
    tails.setMaxBytes(0);
    assert.equal(tails.bytes, 0);
  });

  it("forget a namespace at a cost that does not depend on what they hold", () => {
    // Nodes that write in turn: each commit of the other one begins the tail anew.
    const forgets = (held: number) => {
      const tails = new Tails(64 * MiB);
      for (let seq = 1; seq <= held; seq++) tails.publish("other", [one(seq, `r${seq}`)], 0);
      const began = performance.now();
      for (let at = 1; at <= 10_000; at++) tails.publish("shared", [one(2 * at)], 0);
      const ms = performance.now() - began;
      assert.equal(tails.read("other", everything, 0, page)?.records.length, 10);
      assert.equal(tails.read("shared", everything, 19_999, page)?.records.length, 1);
      return ms;
    };
    forgets(10);
    const few = forgets(10);
    const many = forgets(60_000);
    // Each of 10,000 commits would cost what 60,000 records do.
    assert.ok(many < 50 * few + 500, `${few} ms, ${many} ms`);
  });

  it("show who wants no events the rest without a look at them", () => {
    const tails = new Tails(64 * MiB);
    let looks = 0;
    const eventAt = (firstSeq: number): CommittedRecord => ({
      ...one(firstSeq, "child"),
      lineage: ["child", "root"],
      get types() {
        looks++;
        return "token";
      },
    });
    const factAt = (firstSeq: number): CommittedRecord => {
      return { ...one(firstSeq), lineage: ["child", "root"], firstRunSeq: 0, types: "" };
    };
    tails.publish("n", [factAt(1)], 0);
    for (let seq = 2; seq < 10_000; seq++) tails.publish("n", [eventAt(seq)], 0);
    tails.publish("n", [factAt(10_000)], 0);
    const family = {
      kind: "ancestor",
      ancestorId: "root",
      includeSelf: true,
      maxDepth: 9,
    } as const;
    for (const scope of [all, family, { kind: "runs", runIds: ["child"] } as const]) {
      looks = 0;
      const read = tails.read("n", { scope, types: undefined, kinds: lifecycle }, 0, page);
      assert.deepEqual(
        read?.records.map(({ firstSeq }) => firstSeq),
        [1, 10_000],
      );
      assert.equal(looks, 0);
    }
    tails.setMaxBytes(5_000);
    const left = tails.read("n", { ...everything, kinds: lifecycle }, 9_999, page);
    assert.equal(left?.records.length, 1);
    tails.setMaxBytes(0);
    assert.equal(tails.bytes, 0);
  });

  it("wake whom a record concerns, once", () => {
    const tails = new Tails(MiB);
    const woken: string[] = [];
    const watch = (name: string, scope: Scope, kinds?: KindFilter) =>
      tails.watch("n", { scope, kinds }, () => woken.push(name));
    watch("all", { kind: "all" });
    const ancestor = { kind: "ancestor", includeSelf: true, maxDepth: 9 } as const;
    watch("root", { ...ancestor, ancestorId: "root" });
    watch("other", { ...ancestor, ancestorId: "other" });
    const leave = watch("runs", { kind: "runs", runIds: ["child", "other"] });
    tails.publish("n", [one(1, "stranger")], 0);
    woken.length = 0;
    const record = { ...one(2), lineage: ["child", "root"] };
    tails.publish("n", [record, { ...record, firstSeq: 3 }], 0);
    assert.deepEqual(woken.splice(0), ["all", "runs", "root"]);
    leave();
    tails.publish("n", [{ ...record, firstSeq: 4 }], 0);
    assert.deepEqual(woken.splice(0), ["all", "root"]);
    watch("root's facts", { ...ancestor, ancestorId: "root" }, lifecycle);
    tails.publish("n", [{ ...record, firstSeq: 5 }], 0);
    assert.deepEqual(woken.splice(0), ["all", "root"]);
    tails.publish("n", [{ ...record, firstSeq: 6, firstRunSeq: 0, types: "" }], 0);
    assert.deepEqual(woken.splice(0), ["all", "root", "root's facts"]);
    tails.forget("n");
    assert.deepEqual(woken, ["all", "root", "other", "root's facts"]);
  });
});
