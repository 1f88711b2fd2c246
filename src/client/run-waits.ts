import type { WaitGoal } from "./goals.ts";

interface Asked {
  readonly goal: WaitGoal;
  readonly settle: PromiseWithResolvers<void>;
}

/** The waits that a producer has asked for and that are not answered; one after the other. */
export class RunWaits {
  #asked: Asked[] = [];

  /** The wait to ask the server for. */
  get next(): WaitGoal | undefined {
    return this.#asked[0]?.goal;
  }

  /** Asks for a wait; resolves once the run waits. */
  ask(goal: WaitGoal): Promise<void> {
    const settle = Promise.withResolvers<void>();
    this.#asked.push({ goal, settle });
    return settle.promise;
  }

  /** The run waits as this one says. */
  waiting(goal: WaitGoal): void {
    this.#answered(goal)?.settle.resolve();
  }

  /** This one was refused. */
  refused(goal: WaitGoal, error: Error): void {
    this.#answered(goal)?.settle.reject(error);
  }

  /** None of them will be answered. */
  end(error: Error): void {
    for (const { settle } of this.#asked.splice(0)) settle.reject(error);
  }

  #answered(goal: WaitGoal): Asked | undefined {
    return this.#asked[0]?.goal === goal ? this.#asked.shift() : undefined;
  }
}
