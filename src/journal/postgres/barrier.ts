/**
 * What keeps readers from seeing what a promotion can take back.
 *
 * A commit waits for the synchronous standby before anybody sees it. Where that
 * wait is cut off, because the server ended or somebody cancelled it, the commit is visible
 * once the server answers again, and the standby may not have it. So after each
 * connection that broke reads wait for one commit: once that is confirmed, the
 * standby has all that was visible before.
 */
export class ReadBarrier {
  /** Reasons to wait; a node that starts does not know what was before. */
  #reasons = 1;
  /** How many of them a confirmed commit is behind. */
  #confirmed = 0;
  #confirming: Promise<void> | undefined;

  /** Something may be visible that no standby has. */
  raise(): void {
    this.#reasons++;
  }

  /** Whether reads have to wait. */
  get isRaised(): boolean {
    return this.#confirmed < this.#reasons;
  }

  /**
   * Waits until everything that is visible is confirmed; all who wait share a commit.
   *
   * @param commit resolves once the server has confirmed a commit of ours
   * @throws what `commit` throws
   */
  async passed(commit: () => Promise<void>): Promise<void> {
    while (this.isRaised) {
      this.#confirming ??= this.#confirm(commit).finally(() => {
        this.#confirming = undefined;
      });
      await this.#confirming;
    }
  }

  async #confirm(commit: () => Promise<void>): Promise<void> {
    const reasons = this.#reasons;
    await commit();
    this.#confirmed = reasons;
  }
}
