/** Lets calls in: authenticates the caller before it reads any of the request. */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Logger } from "pino";
import { Health } from "../../../gen/grpc/health/v1/health_pb.js";
import { RefusedError } from "../../refusal.ts";
import { toRefusalError } from "../errors.ts";
import type { Admission, Admit } from "../service-context.ts";
import type { Access } from "./access.ts";
import { anybody, type Caller, callerKey } from "./caller.ts";
import { KeysUnavailableError } from "./remote-keys.ts";
import type { TrustedProxies } from "./trusted-proxies.ts";

/** Without authentication: everybody may do everything. */
export const admitAnybody: Admit = (_method, _headers, values) => {
  values.set(callerKey, anybody);
  return undefined;
};

/**
 * Admits the callers that an access file names; health is public.
 *
 * @param proxies whose word for their callers' certificates counts
 */
export function admitBy(access: Access, proxies: TrustedProxies, logger: Logger): Admit {
  // One failure fails many calls, and any caller can cause it: log it once.
  const logged = new WeakSet<object>();
  const onUnchecked = (error: unknown) => {
    if (error instanceof KeysUnavailableError) {
      if (logged.has(error)) return;
      logged.add(error);
    }
    logger.error({ err: error }, "a token could not be checked");
  };
  return (method, headers, values, peer) => {
    const onCaller = (caller: Caller): undefined => {
      values.set(callerKey, caller);
      logger.debug({ method: method.name, identity: caller.identity }, "call");
    };
    const onRefused = (error: unknown): ConnectError => {
      const refusal = refusalOf(error, onUnchecked);
      values.set(callerKey, refusal);
      logger.info({ method: method.name, problem: refusal.rawMessage }, "a call was refused");
      return refusal;
    };
    if (method.parent.typeName === Health.typeName)
      return admitAnybody(method, headers, values, peer);
    const certificate = () => proxies.certificateOf(peer, headers);
    return admit(
      () => access.authenticate(headers.authorization, certificate),
      onCaller,
      onRefused,
    );
  };
}

function admit(
  authenticate: () => Caller | Promise<Caller>,
  onCaller: (caller: Caller) => undefined,
  onRefused: (error: unknown) => ConnectError,
): Admission {
  try {
    const caller = authenticate();
    return caller instanceof Promise ? caller.then(onCaller, onRefused) : onCaller(caller);
  } catch (error) {
    return onRefused(error);
  }
}

function refusalOf(error: unknown, onUnchecked: (error: unknown) => void): ConnectError {
  if (error instanceof RefusedError) return toRefusalError(error.refusal);
  onUnchecked(error);
  const problem =
    error instanceof KeysUnavailableError
      ? "the server cannot fetch the keys of the token's issuer now: retry"
      : "the server cannot check tokens now: retry";
  return new ConnectError(problem, Code.Unavailable);
}
