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
import type { Readiness } from "./readiness.ts";

const services = new Set([
  "",
  ...[RunService, IngestService, SubscribeService, AdminService, AuthService].map(
    (service) => service.typeName,
  ),
]);

/** Characters of a name that nobody knows, in the answer. */
const maxNameLength = 128;

/** Implements Health: every service serves while the node is ready. */
export function healthService(readiness: Readiness): ServiceImpl<typeof Health> {
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
        call.signal.removeEventListener("abort", onChange);
      }
    },
  };
}
