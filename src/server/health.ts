/**
 * The gRPC health checking protocol
 * (https://github.com/grpc/grpc/blob/master/doc/health-checking.md), for
 * probes, load balancers and proxies.
 */
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import {
  type Health,
  HealthCheckResponse_ServingStatus as Status,
} from "../../gen/grpc/health/v1/health_pb.js";
import { AdminService } from "../../gen/runlog/v1/admin_pb.js";
import { AuthService } from "../../gen/runlog/v1/auth_pb.js";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import { maxHealthWatchesPerConnection } from "../limits.ts";
import type { Draining } from "./draining.ts";
import { toRefusalError } from "./errors.ts";
import type { Readiness } from "./readiness.ts";
import { connectionDraining } from "./service-context.ts";

const services = new Set([
  "",
  ...[RunService, IngestService, SubscribeService, AdminService, AuthService].map(
    (service) => service.typeName,
  ),
]);

/** Characters of a name that nobody knows, in the answer. */
const maxNameLength = 128;

/** Counts the watches of each HTTP/2 connection; HTTP/1.1 has one call at a time. */
class Watches {
  readonly #counts = new WeakMap<Draining, number>();

  /**
   * Counts a watch; the result takes it back.
   *
   * @throws ConnectError where its connection has too many
   */
  add({ values }: Pick<HandlerContext, "values">): () => void {
    const connection = values.get(connectionDraining);
    if (connection === undefined) return () => undefined;
    const count = this.#counts.get(connection) ?? 0;
    if (count >= maxHealthWatchesPerConnection) {
      const what = "health watches on one connection: open another connection";
      throw toRefusalError({ reason: "quota", what, limit: maxHealthWatchesPerConnection });
    }
    this.#counts.set(connection, count + 1);
    return () => {
      this.#counts.set(connection, (this.#counts.get(connection) ?? 1) - 1);
    };
  }
}

/** Implements Health: every service serves while the node is ready. */
export function healthService(readiness: Readiness): ServiceImpl<typeof Health> {
  const watches = new Watches();
  const statusOf = (service: string): Status => {
    if (!services.has(service)) return Status.SERVICE_UNKNOWN;
    return readiness.problem === undefined ? Status.SERVING : Status.NOT_SERVING;
  };
  return {
    check({ service }) {
      const status = statusOf(service);
      if (status === Status.SERVICE_UNKNOWN) {
        const name = JSON.stringify(service.slice(0, maxNameLength));
        throw new ConnectError(`unknown service ${name}`, Code.NotFound);
      }
      return { status };
    },
    async *watch({ service }, call: HandlerContext) {
      const notWatching = watches.add(call);
      let changed = Promise.withResolvers<void>();
      const onChange = () => changed.resolve();
      const stop = readiness.onChange(onChange);
      call.signal.addEventListener("abort", onChange);
      try {
        for (let told: Status | undefined; !call.signal.aborted; ) {
          changed = Promise.withResolvers();
          const status = statusOf(service);
          if (status !== told) yield { status };
          told = status;
          // Nothing will change that, and the call is in the way.
          if (readiness.isDraining) return;
          // It may have changed while the answer was written.
          if (statusOf(service) === told) await changed.promise;
        }
      } finally {
        stop();
        notWatching();
        call.signal.removeEventListener("abort", onChange);
      }
    },
  };
}
