/** AdminService: a later version brings it. */
import type { ServiceImpl } from "@connectrpc/connect";
import type { AdminService } from "../../gen/runlog/v1/admin_pb.js";
import { notYet, type ServiceContext } from "./service-context.ts";

/** Implements AdminService. */
export function adminService(context: ServiceContext): ServiceImpl<typeof AdminService> {
  return {
    listNamespaces: notYet(context, "ListNamespaces"),
    setRetention: notYet(context, "SetRetention"),
    deleteTree: notYet(context, "DeleteTree"),
  };
}
