import { Client, credentials, type ServiceError, status } from "@grpc/grpc-js";

/** How a call ended. */
export interface RawAnswer {
  /** gRPC's number; 0 is OK. */
  readonly code: number;
  readonly text: string;
  /** Whether the server said that it failed; a broken connection is not that. */
  readonly isServersFault: boolean;
}

/** What a call is made with. */
export interface RawCallOptions {
  /** Whether messages may follow in both directions: then the first answer is waited for. */
  readonly isStream: boolean;
  readonly timeoutMs: number;
  readonly over: AbortSignal;
}

/** gRPC calls whose messages are bytes, well formed or not. */
export class RawCaller {
  readonly #client: Client;

  constructor(url: string) {
    this.#client = new Client(new URL(url).host, credentials.createInsecure(), {
      "grpc.max_send_message_length": -1,
      "grpc.max_receive_message_length": -1,
      "grpc.use_local_subchannel_pool": 1,
    });
  }

  close(): void {
    this.#client.close();
  }

  /** Sends one message, and resolves when the call has ended, or its first answer is there. */
  call(
    path: string,
    message: Buffer,
    { isStream, timeoutMs, over }: RawCallOptions,
  ): Promise<RawAnswer> {
    const same = (bytes: Buffer) => bytes;
    return new Promise((resolve) => {
      const deadline = Date.now() + timeoutMs;
      const call = this.#client.makeBidiStreamRequest(path, same, same, { deadline });
      const cancel = () => call.cancel();
      over.addEventListener("abort", cancel);
      const end = (answer: RawAnswer) => {
        over.removeEventListener("abort", cancel);
        resolve(answer);
      };
      call.on("error", (error: ServiceError) => end(answerOf(error)));
      call.on("end", () => end({ code: status.OK, text: "", isServersFault: false }));
      call.on("data", () => {
        if (!isStream) return;
        end({ code: status.OK, text: "", isServersFault: false });
        call.cancel();
      });
      call.write(message);
      if (!isStream) call.end();
    });
  }
}

function answerOf({ code, details }: ServiceError): RawAnswer {
  const isBroken = /RST_STREAM|stream closed|Stream removed|GOAWAY|Connection dropped/i.test(
    details,
  );
  const isFailure =
    code === status.INTERNAL || code === status.UNKNOWN || code === status.DATA_LOSS;
  return { code, text: `${code} ${details}`, isServersFault: isFailure && !isBroken };
}
