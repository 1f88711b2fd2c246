/** Attackers at work. */
import { pause } from "../load/actor.ts";
import type { Target } from "./attack.ts";
import { RawConnection } from "./raw-http2.ts";

/** Runs something with a connection, many at once and again and again, until time is over. */
export async function crowd(
  target: Target,
  count: number,
  use: (connection: RawConnection, index: number) => Promise<void>,
  reads = true,
): Promise<void> {
  await Promise.all(
    Array.from({ length: count }, async (_, index) => {
      while (!target.over.aborted) {
        const connection = await RawConnection.open(target, reads);
        if (connection === undefined) {
          await pause(20, target.over);
          continue;
        }
        const close = () => connection.close();
        target.over.addEventListener("abort", close);
        try {
          await use(connection, index);
        } finally {
          target.over.removeEventListener("abort", close);
          connection.close();
        }
        await pause(0, target.over);
      }
    }),
  );
}

/** Resolves when the attack is over, or the connection is. */
export function untilOver({ over }: Target, { socket }: RawConnection): Promise<void> {
  if (over.aborted || socket.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    over.addEventListener("abort", () => resolve());
    socket.once("close", () => resolve());
  });
}
