/** Which quotas of the access file are whose. */
import type { QuotaLimits } from "../../quotas.ts";
import type { AccessRules } from "./access-file.ts";
import type { Source } from "./caller.ts";
import { quotasOf } from "./parse-quotas.ts";

/**
 * What somebody may use, with a token of its own or with one that was minted from its rights;
 * undefined where only the claims of its own token tell.
 */
export function quotasOfSource(
  { tokens, policy, quotas: base }: AccessRules,
  source: Source,
): QuotaLimits | undefined {
  switch (source.t) {
    case "token": {
      const own = tokens.filter(({ name }) => name === source.name);
      return quotasOf(
        base,
        own.map(({ quotas }) => quotas),
      );
    }
    case "certificate": {
      const about = policy.filter(
        (rule) => rule.t === "certificate" && rule.identities.test(source.identity),
      );
      return quotasOf(
        base,
        about.map(({ quotas }) => quotas),
      );
    }
    case "issuer":
      return undefined;
  }
}
