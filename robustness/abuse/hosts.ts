/** Names of hosts, paths and versions that are none. */
import { pause } from "../load/actor.ts";
import type { Attack } from "./attack.ts";
import { begin, flags, preface, RawConnection, settings } from "./raw-http2.ts";

const hosts = [
  "[",
  "[]",
  "a b",
  "",
  "%",
  "%zz",
  "x:99999",
  "x:-1",
  "::::",
  "\u00e9",
  "a/b",
  "a?b",
  "a#b",
  "@",
  "x".repeat(5_000),
  // The server's own.
  "localhost",
];
const paths = [
  "/healthz",
  "/runlog.v1.RunService/GetRun",
  "//",
  "/%",
  "/\\",
  "*",
  "http://[/",
  "?",
  "",
];

function pair(name: string, value: string | undefined): [string, string][] {
  return value === undefined ? [] : [[name, value]];
}

/** All of them. */
export const hostAttacks: readonly Attack[] = [
  {
    name: "bad-hosts",
    what: "HTTP/1.1 and 1.0 with Host and paths that are malformed, missing, or there twice",
    async run(target) {
      for (const path of paths) {
        const requests = [
          ...hosts.map((host) => `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`),
          ...hosts.map(
            (host) =>
              `POST ${path} HTTP/1.1\r\nHost: ${host}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}`,
          ),
          `GET ${path} HTTP/1.0\r\n\r\n`,
          `GET ${path} HTTP/1.1\r\n\r\n`,
          `GET ${path} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n`,
          `CONNECT ${path} HTTP/1.1\r\nHost: a\r\n\r\n`,
          `GET ${path} HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n`,
          `POST ${path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n`,
          `POST ${path} HTTP/1.1\r\nHost: a\r\nExpect: wonders\r\nContent-Length: 9\r\n\r\n`,
        ];
        await Promise.all(
          requests.map(async (request) => {
            const connection = await RawConnection.open(target);
            await connection?.write(Buffer.from(request));
            await pause(100, target.over);
            connection?.close();
          }),
        );
      }
    },
  },
  {
    name: "bad-authorities",
    what: "HTTP/2 with :authority and :path that are malformed or missing, and pseudo-headers in odd ways",
    async run(target) {
      for (const path of paths) {
        const requests = [undefined, ...hosts].flatMap((authority) =>
          ["application/grpc", "application/json", "application/connect+json", undefined].map(
            (type): [string, string][] => [
              [":method", type === undefined ? "GET" : "POST"],
              [":scheme", "http"],
              [":path", path],
              ...pair(":authority", authority),
              ...pair("content-type", type),
            ],
          ),
        );
        requests.push([
          [":method", "CONNECT"],
          [":authority", "["],
        ]);
        await Promise.all(
          requests.map(async (headers) => {
            const connection = await RawConnection.open(target);
            await connection?.write(
              Buffer.concat([preface, settings(), begin(1, headers, flags.endStream)]),
            );
            await pause(100, target.over);
            connection?.close();
          }),
        );
      }
    },
  },
];
