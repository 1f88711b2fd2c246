import type { DescMessage } from "@bufbuild/protobuf";
import type { StreamResponse, Transport } from "@connectrpc/connect";
import type {
  SubscribeManyResponse,
  SubscribeResponse,
  WatchResponse,
} from "../../../gen/runlog/v1/subscribe_pb.js";
import { isNodeFault, isNodeReason, isRefusedByNode, NoAnswerError } from "../errors.ts";
import type { IngestTransport } from "../ingest-transport.ts";
import { orAbort } from "../or-abort.ts";

/** A node. */
export interface Node {
  readonly transport: IngestTransport;
  /** Opens the connection where it is not open; whether it is now. */
  canConnect(): Promise<boolean>;
  /** Whether the latest connection ever brought anything: otherwise no call reached the node. */
  readonly isConnected: boolean;
}

/**
 * Several nodes of one journal as one transport.
 *
 * Invariant: calls go to one node until it fails, then to the next in the list. Only the
 * node that failed is left, so calls that fail together move on once. What a node refuses
 * because of the call itself is no failure of the node.
 *
 * A unary call tries each node once where none has begun it.
 */
export function overNodes(nodes: readonly Node[]): IngestTransport {
  const choice = new Choice(nodes);
  return {
    nodeCount: nodes.length,
    async unary(method, signal, timeoutMs, ...rest) {
      const hasDeadline = timeoutMs !== undefined && timeoutMs > 0;
      const endMs = hasDeadline ? performance.now() + timeoutMs : 0;
      for (let tries = 1; ; tries++) {
        const node = await orAbort(choice.reachable(), signal);
        const leftMs = hasDeadline ? Math.max(1, Math.ceil(endMs - performance.now())) : timeoutMs;
        try {
          return await node.transport.unary(method, signal, leftMs, ...rest);
        } catch (error) {
          choice.failed(node, error, signal);
          const isUnbegun = !node.isConnected || isRefusedByNode(error);
          const isLate = hasDeadline && performance.now() >= endMs;
          if (!isUnbegun || isLate || signal?.aborted || tries >= nodes.length) throw error;
        }
      }
    },
    async stream<I extends DescMessage, O extends DescMessage>(
      ...call: Parameters<Transport["stream"]>
    ): Promise<StreamResponse<I, O>> {
      const [, signal] = call;
      const node = await orAbort(choice.reachable(), signal);
      try {
        const response = await node.transport.stream(...call);
        const message = choice.watched(node, response.message, signal);
        return { ...response, message } as unknown as StreamResponse<I, O>;
      } catch (error) {
        choice.failed(node, error, signal);
        throw error;
      }
    },
    async *ingest(requests, signal, header) {
      const node = await orAbort(choice.reachable(), signal);
      try {
        for await (const responses of node.transport.ingest(requests, signal, header)) {
          for (const { frame } of responses) {
            const isLeaving =
              frame.case === "goAway" ||
              (frame.case === "rejected" && isNodeReason(frame.value.detail?.reason));
            if (isLeaving) choice.leave(node);
          }
          yield responses;
        }
      } catch (error) {
        choice.failed(node, error, signal);
        throw error;
      }
    },
  };
}

/** Which node calls go to. */
class Choice {
  readonly #nodes: readonly Node[];
  #current = 0;

  constructor(nodes: readonly Node[]) {
    this.#nodes = nodes;
  }

  /** The node for the next call: the first from the current one on that takes a connection. */
  async reachable(): Promise<Node> {
    for (let tries = 1; tries < this.#nodes.length; tries++) {
      const node = this.#nodes[this.#current]!;
      if (await node.canConnect()) return node;
      this.leave(node);
    }
    return this.#nodes[this.#current]!;
  }

  /** A call at a node ended with an error. */
  failed(node: Node, error: unknown, signal: AbortSignal | undefined): void {
    // A call that its caller gave up says nothing about the node, unless it waited for an answer.
    const isAtFault = signal?.aborted ? signal.reason instanceof NoAnswerError : isNodeFault(error);
    if (isAtFault) this.leave(node);
  }

  /** The next calls go to the next node. */
  leave(node: Node): void {
    if (this.#nodes[this.#current] === node)
      this.#current = (this.#current + 1) % this.#nodes.length;
  }

  /** What a stream brings; its end says something about the node. */
  async *watched<T>(
    node: Node,
    messages: AsyncIterable<T>,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<T> {
    try {
      for await (const message of messages) {
        if (isLeaving(message)) this.leave(node);
        yield message;
      }
    } catch (error) {
      this.failed(node, error, signal);
      throw error;
    }
  }
}

/** Whether a frame of whatever stream asks to go elsewhere, or says that the node cannot work now. */
function isLeaving(message: unknown): boolean {
  const { frame } = message as Partial<Pick<SubscribeManyResponse | WatchResponse, "frame">>;
  if (frame?.case === "response") return isGoAway(frame.value);
  if (frame?.case === "ended") return isNodeReason(frame.value.detail?.reason);
  return isGoAway(message);
}

function isGoAway(message: unknown): boolean {
  const { frame } = message as Partial<Pick<SubscribeResponse, "frame">>;
  return frame?.case === "goAway";
}
