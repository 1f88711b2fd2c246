/** Records and filters as histories have them. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import {
  type EventFilterSchema,
  RecordKind,
  type SequencedEvent,
} from "../../gen/runlog/v1/record_pb.js";
import type { SeenFilter, SeenRecord } from "../history/entry.ts";
import { crcOf, producerOf } from "./event-bytes.ts";
import { stateName } from "./runs.ts";

/** A record as it was received. */
export function seen({
  seq,
  runId,
  runSeq,
  recordTime,
  record,
  handledSignalSeq,
}: SequencedEvent): SeenRecord {
  const common = {
    seq: Number(seq),
    run: runId,
    runSeq: Number(runSeq),
    ...(recordTime === undefined ? {} : { timeMs: timestampMs(recordTime) }),
  };
  switch (record.case) {
    case "event":
      return {
        ...common,
        kind: "event",
        type: record.value.type,
        crc: crcOf(record.value),
        by: producerOf(record.value),
        ...(handledSignalSeq === 0n ? {} : { handled: Number(handledSignalSeq) }),
      };
    case "signal": {
      const { signalId, signalSeq, event } = record.value;
      return {
        ...common,
        kind: "signal",
        ...(event === undefined ? {} : { type: event.type, crc: crcOf(event) }),
        id: signalId,
        signalSeq: Number(signalSeq),
      };
    }
    case "runWaiting":
      return {
        ...common,
        kind: "waiting",
        lastRunSeq: Number(record.value.lastRunSeq),
        handled: Number(record.value.handledSignalSeq),
        hasDeadline: record.value.wait?.deadline !== undefined,
      };
    case "runStarted": {
      const { spec, fork } = record.value;
      return {
        ...common,
        kind: "started",
        parent: spec?.parentRunId ?? "",
        ...(fork === undefined ? {} : { fork: { run: fork.runId, runSeq: Number(fork.runSeq) } }),
      };
    }
    case "runFinished": {
      const { result, lastRunSeq } = record.value;
      return {
        ...common,
        kind: "finished",
        state: stateName(result?.state ?? 0),
        output: Buffer.from(result?.output ?? []).toString(),
        lastRunSeq: Number(lastRunSeq),
        handled: Number(record.value.handledSignalSeq),
        ...(result?.failure === undefined ? {} : { failure: result.failure.code }),
      };
    }
    default:
      return { ...common, kind: "resumed" };
  }
}

const recordKinds = {
  event: RecordKind.EVENT,
  signal: RecordKind.SIGNAL,
  lifecycle: RecordKind.LIFECYCLE,
} as const;

/** A filter as it goes over the wire. */
export function filterMessage({
  scope,
  types,
  kinds: names = [],
}: SeenFilter): MessageInitShape<typeof EventFilterSchema> {
  const eventTypes = [...types];
  const kinds = names.map((name) => recordKinds[name]);
  switch (scope.t) {
    case "all":
      return { eventTypes, kinds, scope: { case: "all", value: {} } };
    case "runs":
      return {
        eventTypes,
        kinds,
        scope: {
          case: "runIds",
          value: { runIds: [...scope.runs], includeInherited: scope.inherited ?? false },
        },
      };
    case "ancestor":
      return {
        eventTypes,
        kinds,
        scope: {
          case: "ancestor",
          value: {
            ancestorRunId: scope.run,
            includeSelf: scope.includesSelf,
            maxDepth: scope.maxDepth,
          },
        },
      };
  }
}
