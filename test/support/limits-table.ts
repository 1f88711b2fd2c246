/** The table of docs/limits.md, from what the code has. */
import { limitText, offeredLimits, rangeText } from "../../src/cli/limit-settings.ts";
import { exactDurationText } from "../../src/cli/quantities.ts";
import {
  defaultPageSize,
  type LimitSpec,
  limitSpecs,
  maxAppendEvents,
  maxAttributes,
  maxAttributeValueBytes,
  maxContentTypeBytes,
  maxDepth,
  maxFilterRunIds,
  maxFilterTypes,
  maxJsonDepth,
  maxJsonValues,
  maxKeyBytes,
  maxLabelValueBytes,
  maxLeaseMs,
  maxListedStates,
  maxListItems,
  maxNamespaceBytes,
  maxPageSize,
  maxPlainFields,
  maxProducerIdBytes,
  maxRecordBytes,
  maxRunIdBytes,
  maxScannedEvents,
  maxSpecStringBytes,
  maxSuppressed,
  maxTypeBytes,
  minLeaseMs,
  minProgressIntervalMs,
} from "../../src/limits.ts";

type Row = readonly [name: string, value: string, range: string, what: string, beyond: string];

const invalid = "`INVALID_FIELD`";
const fixed = "fixed";

/** What the contract fixes, and what everything that is stored relies on. */
const contractRows: readonly Row[] = [
  ["namespace", `${maxNamespaceBytes} bytes`, fixed, "its name", invalid],
  ["run_id", `${maxRunIdBytes} bytes`, fixed, "a UUID, or a path-like name", invalid],
  [
    "producer_id",
    `${maxProducerIdBytes} bytes`,
    fixed,
    "drawn at random by each producer",
    invalid,
  ],
  ["Event.type", `${maxTypeBytes} bytes`, fixed, "its length", invalid],
  [
    "content_type",
    `${maxContentTypeBytes} bytes`,
    fixed,
    "a media type, of an event or a result",
    invalid,
  ],
  ["Event.attributes", String(maxAttributes), fixed, "pairs", invalid],
  [
    "attribute values",
    `${maxAttributeValueBytes} bytes`,
    fixed,
    "`tracestate` alone may take 512",
    invalid,
  ],
  ["keys", `${maxKeyBytes} bytes`, fixed, "of labels and attributes", invalid],
  ["label values", `${maxLabelValueBytes} bytes`, fixed, "their length", invalid],
  [
    "RunSpec strings",
    `${maxSpecStringBytes} bytes`,
    fixed,
    "conversation, agent, version and name",
    invalid,
  ],
  [
    "RunSpec.lease",
    `${exactDurationText(minLeaseMs)} to ${exactDurationText(maxLeaseMs)}`,
    fixed,
    "shorter ones lapse during a garbage collection",
    invalid,
  ],
  ["depth", String(maxDepth), fixed, "edges from a root to a run: each ancestor is a row", invalid],
  [
    "Append.events",
    String(maxAppendEvents),
    fixed,
    "events of one append or window: each costs memory however small it is",
    invalid,
  ],
  ["RunResult.suppressed", String(maxSuppressed), fixed, "failures", invalid],
  [
    "RunIdsScope.run_ids",
    String(maxFilterRunIds),
    fixed,
    "runs of one filter: for more, subscribe to an ancestor",
    "`RUN_ID_LIMIT`",
  ],
  ["ListRunsRequest.states", String(maxListedStates), fixed, "states; there are five", invalid],
  ["EventFilter.event_types", String(maxFilterTypes), fixed, "types of one filter", invalid],
  [
    "page_size",
    String(maxPageSize),
    fixed,
    `runs or records of one page; ${defaultPageSize} where the caller does not say`,
    invalid,
  ],
  ["texts", "UTF-8", fixed, "without U+0000, which PostgreSQL does not take", invalid],
  [
    "times",
    "years 1 to 9999",
    fixed,
    "which is what JSON can write; durations to 10,000 years",
    invalid,
  ],
  [
    "lists in one message",
    String(maxListItems),
    fixed,
    `items up to which a message is decoded, to be refused for its own limit; ${maxScannedEvents} events`,
    invalid,
  ],
  [
    "other fields in one message",
    String(maxPlainFields),
    fixed,
    "unknown and repeated ones included: a message has a dozen",
    invalid,
  ],
  [
    "values in one message in JSON",
    String(maxJsonValues),
    fixed,
    `nested ${maxJsonDepth} deep: each costs far more than its bytes`,
    invalid,
  ],
  [
    "progress_interval",
    `from ${exactDurationText(minProgressIntervalMs)}`,
    fixed,
    "more often would be load, not news",
    invalid,
  ],
  [
    "record",
    limitText(maxRecordBytes, "bytes"),
    fixed,
    "events that are stored together, unless one alone is larger: bounds a page",
    "several records",
  ],
];

/** Renders the table as Markdown. */
export function limitsTable(): string {
  const offered = offeredLimits.map((limit): Row => {
    const { name, spec } = limit;
    return [
      `\`${name}\``,
      limitText(spec.default, spec.unit),
      rangeText(limit),
      whatAndWhy(spec),
      spec.range.beyond,
    ];
  });
  const internal = Object.entries<LimitSpec>(limitSpecs).flatMap(([name, spec]): Row[] =>
    spec.range === undefined
      ? [
          [
            name,
            limitText(spec.default, spec.unit),
            fixed,
            whatAndWhy(spec),
            ["lockTimeoutMs", "statementTimeoutMs"].includes(name)
              ? "`JOURNAL_UNAVAILABLE`"
              : "goes into the next one",
          ],
        ]
      : [],
  );
  const lines = [
    ["limit", "default", "range", "what and why", "beyond it"],
    ["---", "---", "---", "---", "---"],
    ...offered,
    ...contractRows,
    ...internal,
  ].map((cells) => `| ${cells.join(" | ")} |`);
  return `${lines.join("\n")}\n`;
}

function whatAndWhy({ what, why }: LimitSpec): string {
  return `${what}. ${why}`;
}
