/** Bounds the connections of a server, whichever of its ports they come to. */
export class ConnectionSlots {
  readonly #max: number;
  #taken = 0;

  constructor(max: number) {
    this.#max = max;
  }

  /** Takes a place for a connection; false where there is none. Give it back with `free`. */
  take(): boolean {
    if (this.#taken >= this.#max) return false;
    this.#taken++;
    return true;
  }

  /** Gives a place back. */
  free(): void {
    this.#taken--;
  }
}
