/** A queue that is read by index: push at one end, shift at the other, both in constant time. */
export class Deque<T> {
  /** Those before #head are undefined: a removed item is not kept until its place is. */
  #items: (T | undefined)[] = [];
  #head = 0;

  get length(): number {
    return this.#items.length - this.#head;
  }

  /** The item at an index from the oldest on. */
  at(index: number): T | undefined {
    return this.#items[this.#head + index];
  }

  push(item: T): void {
    // An array that is pushed to has room for sixteen more: most lists of a tail hold one item.
    if (this.#items.length === 0) this.#items = [item];
    else this.#items.push(item);
  }

  /** Removes the oldest item. */
  shift(): T | undefined {
    if (this.length === 0) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head] = undefined;
    this.#head++;
    if (this.#head > 32 && this.#head * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }

  /** Index of the first item for which `isAfter` holds, where it holds for all behind it too. */
  firstIndex(isAfter: (item: T) => boolean): number {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (isAfter(this.#items[this.#head + middle]!)) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
