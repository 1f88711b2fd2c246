/**
 * A commit that reads nothing, as one message to the thread that writes: the next one is
 * decided and sent meanwhile. It takes effect if the namespace is as the one before it
 * has left it; version and append_id tell (see ../postgres/append.ts).
 */
import type { BulkQuery } from "../bulk.ts";
import type { Append } from "../journal.ts";
import { totalColumns } from "../namespaces.ts";
import { insertedRecords } from "../records.ts";
import { appendedRuns, changedRuns } from "../runs.ts";
import { beginText, commitText, type Statement } from "./messages.ts";

const namespaceText = `update namespaces
  set version = version + 1, ${totalColumns.map((column) => `${column} = ?`).join(", ")}
  where namespace_id = ? and version = ? and append_id = ?`;

/** The statements of the transaction. */
export function appendStatements(append: Append): Statement[] {
  const { namespace, change, changed, appended, records } = append;
  const { namespace_id, version, append_id } = namespace;
  const totals = totalColumns.map((column) => change[column]);
  return [
    { text: beginText, parameters: [] },
    {
      text: namespaceText,
      parameters: [...totals, namespace_id, version, append_id],
      isCondition: true,
    },
    rowByRow(changedRuns.query(changed)),
    rowByRow(appendedRuns.query(appended)),
    rowByRow(insertedRecords.query(records)),
    { text: commitText, parameters: [] },
  ];
}

function rowByRow({ sql: text, columns, rows }: BulkQuery): Statement {
  return { text, columns, rows };
}
