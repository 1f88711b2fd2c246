/** The process of a Durable Streams server: its argument is the directory, its first line the URL. */
import { DurableStreamTestServer } from "@durable-streams/server";

const server = new DurableStreamTestServer({
  port: 0,
  dataDir: process.argv[2]!,
  compression: false,
});
await server.start();
console.log(server.url);
process.once("SIGTERM", () => {
  void server.stop().then(() => process.exit(0));
});
