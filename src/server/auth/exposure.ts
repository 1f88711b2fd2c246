/** Whom a server that does not authenticate may serve: the machine that it runs on. */
import { isIP } from "node:net";

/** The server would let anybody do everything who reaches its port over a network. */
export class ExposedError extends Error {
  readonly host: string;

  constructor(host: string) {
    super(
      `without an access file anyone who can reach ${host} could read and write everything: ` +
        "give one, listen on 127.0.0.1, or allow anyone",
    );
    this.name = "ExposedError";
    this.host = host;
  }
}

/** The server would know callers by their certificates, and not what they may do. */
export class NoAccessFileError extends Error {
  constructor() {
    super("certificates of clients say who calls, and an access file what they may do: give one");
    this.name = "NoAccessFileError";
  }
}

/** Whether only the machine itself reaches an address, or a name that always means such a one. */
export function isLoopback(host: string): boolean {
  switch (isIP(host)) {
    case 4:
      return host.startsWith("127.");
    case 6:
      return new URL(`http://[${host}]`).hostname === "[::1]";
    default:
      return host.toLowerCase() === "localhost";
  }
}
