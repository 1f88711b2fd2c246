/** The tables of docs/limits.md, from src/limits.ts. */
import { limitText, offeredLimits, rangeText } from "../../src/cli/limit-settings.ts";
import { exactDurationText } from "../../src/cli/quantities.ts";
import {
  defaultMintedLifetimeS,
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
  maxGrants,
  maxHealthWatchesPerConnection,
  maxHolderNameBytes,
  maxInheritedRuns,
  maxJsonDepth,
  maxJsonValues,
  maxKeyBytes,
  maxLabelValueBytes,
  maxLastCount,
  maxLeaseMs,
  maxListedStates,
  maxListItems,
  maxMessageItems,
  maxMintedLifetimeS,
  maxNamespaceBytes,
  maxPageSize,
  maxPlainFields,
  maxProducerIdBytes,
  maxReadableNamespaces,
  maxReasonBytes,
  maxRecordBytes,
  maxRetentionMs,
  maxRunIdBytes,
  maxScannedEvents,
  maxSpecStringBytes,
  maxStreamsPerConnection,
  maxSuppressed,
  maxTokenBytes,
  maxTypeBytes,
  minLeaseMs,
  minProgressIntervalMs,
  minRetentionMs,
  pingIntervalMs,
  pingTimeoutMs,
  responseRoomBytes,
} from "../../src/limits.ts";

type Row = readonly [name: string, value: string, what: string, beyond: string];

const invalid = "`INVALID_FIELD`";
const seconds = (ms: number) => exactDurationText(ms);

/** Fixed by the contract. */
const contractRows: readonly Row[] = [
  ["namespace", `${maxNamespaceBytes} bytes`, "the name", invalid],
  ["run_id", `${maxRunIdBytes} bytes`, "a UUID, or a path-like name", invalid],
  ["producer_id", `${maxProducerIdBytes} bytes`, "each producer draws one at random", invalid],
  ["Event.type", `${maxTypeBytes} bytes`, "the event's type", invalid],
  ["content_type", `${maxContentTypeBytes} bytes`, "media type of an event or a result", invalid],
  ["Event.attributes", `${maxAttributes}`, "pairs", invalid],
  [
    "attribute values",
    `${maxAttributeValueBytes} bytes`,
    "`tracestate` alone may take 512",
    invalid,
  ],
  ["keys", `${maxKeyBytes} bytes`, "keys of labels and attributes", invalid],
  ["label values", `${maxLabelValueBytes} bytes`, "values of labels", invalid],
  ["RunSpec strings", `${maxSpecStringBytes} bytes`, "conversation, agent, version, name", invalid],
  [
    "RunSpec.lease",
    `${seconds(minLeaseMs)} to ${seconds(maxLeaseMs)}`,
    "shorter leases lapse during a garbage collection",
    invalid,
  ],
  ["retention", `${seconds(minRetentionMs)} to ${seconds(maxRetentionMs)}`, "or forever", invalid],
  ["CancelRunRequest.reason", `${maxReasonBytes} bytes`, "text for the producers", invalid],
  ["depth", `${maxDepth}`, "edges from a root to a run; each ancestor is a row", invalid],
  [
    "Append.events",
    `${maxAppendEvents}`,
    "events of one append or window; each takes memory however small it is",
    invalid,
  ],
  ["RunResult.suppressed", `${maxSuppressed}`, "failures", invalid],
  [
    "RunIdsScope.run_ids",
    `${maxFilterRunIds}`,
    "runs in one filter; for more, subscribe to an ancestor",
    "`RUN_ID_LIMIT`",
  ],
  [
    "include_inherited",
    `${maxInheritedRuns}`,
    "runs whose events the forks in one filter inherit, over forks of forks",
    "`QUOTA`",
  ],
  ["ListRunsRequest.states", `${maxListedStates}`, "states; there are five", invalid],
  ["EventFilter.event_types", `${maxFilterTypes}`, "types in one filter", invalid],
  [
    "SubscribeRequest.last_count",
    `${maxLastCount}`,
    "newest records to start with; for more, page back with ReadEvents",
    invalid,
  ],
  ["EventFilter.kinds", "3", "kinds in one filter; there are three", invalid],
  [
    "page_size",
    `${maxPageSize}`,
    `runs, namespaces or records in one page; ${defaultPageSize} by default`,
    invalid,
  ],
  ["strings", "UTF-8", "without U+0000, which PostgreSQL refuses", invalid],
  ["timestamps", "years 1 to 9999", "JSON can write no others; durations to 10,000 years", invalid],
  [
    "lists in one message",
    `${maxListItems}`,
    `items; ${maxScannedEvents} for events, and ${maxMessageItems} for all other lists together. Beyond it the server does not decode the message`,
    invalid,
  ],
  [
    "other fields in one message",
    `${maxPlainFields}`,
    "repeated and unknown fields included; a message has a dozen",
    invalid,
  ],
  [
    "values in one message in JSON",
    `${maxJsonValues}`,
    `nested at most ${maxJsonDepth} deep; each costs far more than its bytes`,
    invalid,
  ],
  [
    "progress_interval",
    `at least ${seconds(minProgressIntervalMs)}`,
    "more frequent Progress would be load without news",
    invalid,
  ],
  [
    "response",
    `4MiB`,
    `or \`max-event-bytes\` plus ${limitText(responseRoomBytes, "bytes")} if that is more`,
    "the page ends earlier",
  ],
];

/** Fixed in the server. */
const serverRows: readonly Row[] = [
  ["token", `${maxTokenBytes} bytes`, "a bearer token: a JWT with its grants", "UNAUTHENTICATED"],
  [
    "grants",
    `${maxGrants}`,
    "grants of one token, or of one entry of the access file; each may cost a look-up",
    "UNAUTHENTICATED; the access file is refused",
  ],
  [
    "lifetime of a minted token",
    seconds(defaultMintedLifetimeS * 1000),
    `unless the access file says otherwise, with at most ${seconds(maxMintedLifetimeS * 1000)}`,
    "the token expires earlier than asked for",
  ],
  [
    "name of a minted token's holder",
    `${maxHolderNameBytes} bytes`,
    "visible ASCII characters but `>`",
    invalid,
  ],
  [
    "WhoAmI",
    `${maxReadableNamespaces}`,
    "namespaces that it lists",
    "the answer says that there are more",
  ],
  [
    "streams of a connection",
    `${maxStreamsPerConnection}`,
    "calls at once on one HTTP/2 connection",
    "the client waits with the call; open another connection",
  ],
  [
    "health watches of a connection",
    `${maxHealthWatchesPerConnection}`,
    "`grpc.health.v1.Health/Watch` calls on one HTTP/2 connection, for which nobody needs a token",
    "`QUOTA`",
  ],
  [
    "ping",
    seconds(pingIntervalMs),
    `the server pings an HTTP/2 connection this often and waits ${seconds(pingTimeoutMs)} for the answer`,
    "the server closes the connection",
  ],
  [
    "record",
    limitText(maxRecordBytes, "bytes"),
    "events stored together, unless one event is larger; bounds a page",
    "the append becomes several records",
  ],
  ...Object.entries<LimitSpec>(limitSpecs).flatMap(([name, spec]): Row[] =>
    spec.range === undefined
      ? [[name, limitText(spec.default, spec.unit), whatAndWhy(spec), spec.beyond]]
      : [],
  ),
];

/** Renders the tables as Markdown. */
export function limitsTable(): string {
  const settings = offeredLimits.map((limit) => {
    const { name, spec } = limit;
    const value = limitText(spec.default, spec.unit);
    return [`\`${name}\``, value, rangeText(limit), whatAndWhy(spec), spec.beyond];
  });
  const rest = ["limit", "value", "what it bounds", "beyond it"];
  return [
    "## Settings",
    table(["limit", "default", "range", "what it bounds, and why", "beyond it"], settings),
    "## Fixed by the contract",
    table(rest, contractRows),
    "## Fixed in the server",
    table(rest, serverRows),
  ].join("\n\n");
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`);
  return lines.join("\n");
}

function whatAndWhy({ what, why }: LimitSpec): string {
  return `${what}. ${why}`;
}
