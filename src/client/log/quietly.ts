/** The promise, whose rejection ends no process where nobody awaits it. */
export function quietly<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}
