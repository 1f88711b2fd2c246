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
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import type { Draining } from "./draining.ts";

const services = new Set([
  "",
  ...[RunService, IngestService, SubscribeService, AdminService].map((service) => service.typeName),
]);

/** Characters of a name that nobody knows, in the answer. */
const maxNameLength = 128;

/** Implements Health: every service serves until the server drains. */
export function healthService(draining: Draining): ServiceImpl<typeof Health> {
  const statusOf = (service: string): Status => {
    if (!services.has(service)) return Status.SERVICE_UNKNOWN;
    return draining.started ? Status.NOT_SERVING : Status.SERVING;
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
      yield { status: statusOf(service) };
      const changed = Promise.withResolvers<void>();
      const notDraining = draining.onStart(() => changed.resolve());
      const onAbort = () => changed.resolve();
      call.signal.addEventListener("abort", onAbort);
      try {
        await changed.promise;
        if (!call.signal.aborted) yield { status: statusOf(service) };
      } finally {
        notDraining();
        call.signal.removeEventListener("abort", onAbort);
      }
    },
  };
}
