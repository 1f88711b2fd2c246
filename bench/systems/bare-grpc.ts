/** A bare @grpc/grpc-js stream of the bytes that runlog would send: the limit of a replay. */
import { fileURLToPath } from "node:url";
import { fromBinary } from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import { SubscribeResponseSchema } from "../../gen/runlog/v1/subscribe_pb.js";
import { numberOf } from "../payloads.ts";
import { end, startNode } from "./processes.ts";
import type { OnEvent, System } from "./system.ts";

const serverFile = fileURLToPath(new URL("./bare-grpc-server.ts", import.meta.url));

/** A server that has its frames in memory. */
export const bareGrpc: System = {
  name: "bare grpc-js",
  durability: "none: frames are in the server's memory",
  async start() {
    const { child, url } = await startNode(serverFile, []);
    return { url, pid: child.pid, stop: () => end(child) };
  },
  connect(url) {
    const client = new Client(url, credentials.createInsecure(), {
      "grpc.max_receive_message_length": -1,
      "grpc-node.flow_control_window": 4 * 1024 * 1024,
    });
    return Promise.resolve({
      write: () => Promise.resolve(),
      read(_stream: string, count: number, onEvent: OnEvent) {
        return new Promise<void>((resolve, reject) => {
          const call = client.makeServerStreamRequest(
            "/bench/Read",
            (value: Buffer) => value,
            (bytes) => fromBinary(SubscribeResponseSchema, bytes),
            Buffer.from(String(count)),
          );
          call.on("data", ({ frame }) => {
            if (frame.case !== "events") return;
            for (const { record } of frame.value.events) {
              if (record.case === "event") onEvent(numberOf(record.value.data));
            }
          });
          call.on("error", reject);
          call.on("end", resolve);
        });
      },
      close() {
        client.close();
        return Promise.resolve();
      },
    });
  },
};
