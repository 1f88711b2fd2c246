/**
 * The last line of defence: exceptions that nobody caught, and rejections that
 * nobody handled.
 *
 * A request cannot get here: what the port's listeners throw ends a connection
 * (port.ts), what a call throws ends the call. So what arrives here arose in the
 * server's own timers and callbacks, and some state may be half changed: the
 * process ends, and whoever supervises it starts another one, which loses nothing
 * acknowledged. Only the loss of a peer, an "error" event that no one listened
 * for, leaves no state behind; the server goes on.
 */
import type { Logger } from "pino";
import { isLossCode } from "./http/connection-loss.ts";

/** How the process is to be defended. */
export interface DefenceOptions {
  readonly logger: Logger;
  /** Called once the exception has been logged: ends the process with a status that is not 0. */
  readonly end: (error: unknown) => void;
}

/** Listens for what nobody caught. Unhandled rejections arrive as exceptions, as Node does by default. */
export function defendProcess({ logger, end }: DefenceOptions): void {
  process.on("uncaughtException", (error: Error & { code?: unknown }, origin) => {
    if (isLossCode(error.code)) {
      logger.error({ err: error, origin }, "the loss of a peer was nobody's, going on");
      return;
    }
    logger.fatal({ err: error, origin }, "nobody caught this, ending: state may be broken");
    end(error);
  });
}
