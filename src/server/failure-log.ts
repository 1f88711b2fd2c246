import type { Logger } from "pino";
import type { JournalHealth } from "../journal/journal-health.ts";
import { isDataLoss, isUnavailable } from "../refusal.ts";

/** Milliseconds between two lines about one outage. */
const outageLogMs = 10_000;

/**
 * Logs a journal's failures: failed tries, seldom and with their number, so that an
 * outage is neither silent nor a flood; and the journal's problem, when it changes.
 */
export class FailureLog {
  readonly #logger: Logger;
  #nextMs = 0;
  #unlogged = 0;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** Told of a try that failed and is made again, of a call or beside all calls. */
  failed(error: unknown): void {
    if (!isUnavailable(error) && !isDataLoss(error)) {
      this.#logger.error({ err: error }, "something failed beside all calls, to be tried again");
      return;
    }
    this.#unlogged++;
    const nowMs = performance.now();
    if (nowMs < this.#nextMs) return;
    this.#nextMs = nowMs + outageLogMs;
    const { cause } = error;
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
    const problem = cause instanceof Error ? cause.message : error.message;
    this.#logger.warn(
      { problem, code, failedTries: this.#unlogged },
      isDataLoss(error)
        ? "the journal's database is damaged"
        : "the journal's database does not answer",
    );
    this.#unlogged = 0;
  }

  /**
   * Logs the journal's problem when it changes.
   *
   * @param onFatal called once nothing will be written any more, with a line that says why
   */
  follow(health: JournalHealth, onFatal: (message: string) => void): void {
    health.onChange(() => {
      const { problem } = health;
      if (problem === undefined) {
        this.#logger.warn("the journal can be written again");
        return;
      }
      const { kind, message, cause } = problem;
      if (kind === "fatal") this.#logger.fatal({ err: cause }, message);
      else this.#logger.error({ err: cause }, message);
      if (kind === "fatal") onFatal(message);
    });
  }
}
