/** The names of permissions, as the access file has them. */
import { Permission } from "../../gen/runlog/v1/auth_pb.js";

/** By name. */
export const permissionsByName = {
  ingest: Permission.INGEST,
  read: Permission.READ,
  signal: Permission.SIGNAL,
  cancel: Permission.CANCEL,
  admin: Permission.ADMIN,
} as const;

/** One of them. */
export type PermissionName = keyof typeof permissionsByName;

/** The name of a permission; its number for one of a later version. */
export function permissionName(permission: Permission): string {
  const [name] = Object.entries(permissionsByName).find(([, one]) => one === permission) ?? [];
  return name ?? String(permission);
}
