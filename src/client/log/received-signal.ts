import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { RunSignal } from "../signal-inbox.ts";
import { Payload } from "./payload.ts";

/**
 * Input to a run, as its producer gets it. It counts as handled once the event that answers it is
 * durable (`run.emit(…, { handles: signal })`), or as `handled()` says; until then a producer that
 * dies gets it again.
 */
export class ReceivedSignal extends Payload {
  /** However often a sender sends it under this id, the run gets it once. */
  readonly id: string;
  /** Place among the signals of the run: 1, 2, 3, … */
  readonly signalSeq: number;
  /** Place in the journal. */
  readonly seq: number;
  readonly type: string;
  readonly attributes: Readonly<Record<string, string>>;
  /** When it was sent, by its sender's clock. */
  readonly time: Date;
  /** Who sent it, where the server authenticates; else "". */
  readonly sender: string;
  readonly #handle: (signalSeq: number) => void;

  /** @param handle records the signals up to a seq as handled */
  constructor(
    { signalSeq, signalId, seq, event, sender }: RunSignal,
    handle: (signalSeq: number) => void,
  ) {
    super(event.data, event.contentType);
    this.id = signalId;
    this.signalSeq = signalSeq;
    this.seq = seq;
    this.type = event.type;
    this.attributes = event.attributes;
    this.time = event.time === undefined ? new Date(0) : timestampDate(event.time);
    this.sender = sender;
    this.#handle = handle;
  }

  /** Records it, and those before it, as handled, where no event answers them. */
  handled(): void {
    this.#handle(this.signalSeq);
  }
}
