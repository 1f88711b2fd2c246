/** What a statement answers. */
import type { CompiledQuery } from "kysely";

/** Whether a statement changes rows and tells nothing of them but their number, which nobody asks for. */
export function returnsNoRows({ query }: CompiledQuery): boolean {
  switch (query.kind) {
    case "InsertQueryNode":
    case "UpdateQueryNode":
    case "DeleteQueryNode":
      return query.returning === undefined;
    default:
      return false;
  }
}
