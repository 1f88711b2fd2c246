/** A transport whose calls show a token, and another one when that has expired. */
import type { DescMessage } from "@bufbuild/protobuf";
import { Code, ConnectError, type StreamResponse, type Transport } from "@connectrpc/connect";
import { markRenewable, NoAnswerError } from "./errors.ts";
import type { IngestTransport } from "./ingest-transport.ts";
import { orAbort } from "./or-abort.ts";
import { type Credential, type TokenProvider, Tokens } from "./tokens.ts";

interface Made {
  /** The transport that shows no token. */
  readonly bare: Transport;
  readonly tokens: Tokens;
}

const made = new WeakMap<Transport, Made>();
/** By the transport without a token, then by provider: the same two share Ingest calls. */
const shared = new WeakMap<Transport, WeakMap<TokenProvider, Transport>>();

/** Times that a unary call is made at most: with its token, the next one, and one renewed meanwhile. */
const maxUnaryTries = 3;

/**
 * The transport, every call of which shows a bearer token. For openRun, follow, followMany,
 * signalRun and any Connect client; in browsers, over any Connect transport.
 *
 * When the server ends a call with TOKEN_EXPIRED, the provider is asked once, however many
 * calls ended, and they are made again at once: by openRun, follow and followMany, which resume,
 * and a unary call by itself. If the new token is refused as expired too, or the server
 * answers UNAUTHENTICATED, that is final. If the tokens are JWTs, the provider is asked for the
 * next one after 70 to 90 % of a token's lifetime, so that it is there when streams end.
 *
 * The same provider on the same transport gives the same result, and runs share an Ingest call
 * only then. A transport that shows a token already shows this one instead.
 *
 * @throws TypeError for a text that can be no token
 */
export function withToken(
  transport: IngestTransport,
  token: string | TokenProvider | undefined,
): IngestTransport;
export function withToken(
  transport: Transport,
  token: string | TokenProvider | undefined,
): Transport;
export function withToken(
  transport: Transport,
  token: string | TokenProvider | undefined,
): Transport {
  const bare = made.get(transport)?.bare ?? transport;
  if (typeof token !== "function") return showing(bare, new Tokens(token));
  const byProvider = shared.get(bare) ?? new WeakMap<TokenProvider, Transport>();
  shared.set(bare, byProvider);
  const known = byProvider.get(token) ?? showing(bare, new Tokens(token));
  byProvider.set(token, known);
  return known;
}

/**
 * Resolves once the next call has a token to show, so that what it takes to get one does not
 * count as the server's silence. Undefined where nobody has to wait.
 *
 * @throws TokenError; the signal's reason
 */
export function tokenFor(
  transport: Transport,
  signal: AbortSignal,
): Promise<Credential> | undefined {
  const credential = made.get(transport)?.tokens.use(signal);
  return credential instanceof Promise ? credential : undefined;
}

function showing(bare: Transport, tokens: Tokens): Transport {
  const transport: Transport = {
    async unary(method, signal, timeoutMs, header, ...rest) {
      const hasDeadline = timeoutMs !== undefined && timeoutMs > 0;
      const endMs = hasDeadline ? performance.now() + timeoutMs : 0;
      for (let tries = 1; ; tries++) {
        // Whole ones: Connect has no others on the wire.
        const left = () =>
          hasDeadline ? Math.max(1, Math.ceil(endMs - performance.now())) : undefined;
        const shown = await credentialOf(tokens, signal, left());
        try {
          const leftMs = left() ?? timeoutMs;
          const headers = headersWith(shown, header);
          const response = await bare.unary(method, signal, leftMs, headers, ...rest);
          tokens.accepted(shown);
          return response;
        } catch (error) {
          if (!tokens.ended(shown, error) || tries === maxUnaryTries) throw error;
        }
      }
    },
    async stream<I extends DescMessage, O extends DescMessage>(
      ...call: Parameters<typeof bare.stream<I, O>>
    ): Promise<StreamResponse<I, O>> {
      const [method, signal, timeoutMs, header, ...rest] = call;
      const shown = await credentialOf(tokens, signal);
      try {
        const headers = headersWith(shown, header);
        const response = await bare.stream(method, signal, timeoutMs, headers, ...rest);
        return { ...response, message: watched(tokens, shown, response.message, signal) };
      } catch (error) {
        throw markedEnd(tokens, shown, error);
      }
    },
  };
  made.set(transport, { bare, tokens });
  if (!("ingest" in bare)) return transport;
  const { ingest, nodeCount } = bare as IngestTransport;
  const streaming: IngestTransport = {
    ...transport,
    ...(nodeCount !== undefined && { nodeCount }),
    async *ingest(requests, signal) {
      const shown = await credentialOf(tokens, signal);
      const responses = ingest(requests, signal, headersWith(shown));
      yield* watched(tokens, shown, responses, signal);
    },
  };
  made.set(streaming, { bare, tokens });
  return streaming;
}

/** @throws TokenError, and ConnectError where the caller gives up */
async function credentialOf(
  tokens: Tokens,
  signal: AbortSignal | undefined,
  timeoutMs?: number,
): Promise<Credential> {
  const credential = tokens.use(signal);
  if (!(credential instanceof Promise)) return credential;
  try {
    return await orAbort(credential, signal, timeoutMs, "token");
  } catch (error) {
    if (signal?.aborted) throw ConnectError.from(error, Code.Canceled);
    if (error instanceof NoAnswerError) throw ConnectError.from(error, Code.DeadlineExceeded);
    throw error;
  }
}

function headersWith(
  { authorization }: Credential,
  header?: ConstructorParameters<typeof Headers>[0],
): Headers {
  const headers = new Headers(header);
  if (authorization !== undefined) headers.set("authorization", authorization);
  return headers;
}

/** The error, marked if calling again at once with another token may help. */
function markedEnd(tokens: Tokens, shown: Credential, error: unknown): unknown {
  if (tokens.ended(shown, error)) markRenewable(error);
  return error;
}

/**
 * What a stream brings. No generator: a frame of a stream costs one promise more, not four.
 *
 * @param signal the call's: a reader that aborts it may never read to the end
 */
function watched<T>(
  tokens: Tokens,
  shown: Credential,
  messages: AsyncIterable<T>,
  signal: AbortSignal | undefined,
): AsyncIterable<T> {
  return {
    [Symbol.asyncIterator]() {
      const iterator = messages[Symbol.asyncIterator]();
      const closed = tokens.opened();
      const close = () => {
        closed();
        signal?.removeEventListener("abort", close);
      };
      if (signal?.aborted) close();
      else signal?.addEventListener("abort", close, { once: true });
      const onNext = (next: IteratorResult<T>) => {
        if (next.done === true) close();
        else tokens.accepted(shown);
        return next;
      };
      const onError = (error: unknown) => {
        close();
        throw markedEnd(tokens, shown, error);
      };
      return {
        next: () => iterator.next().then(onNext, onError),
        async return(value?: unknown) {
          close();
          return (await iterator.return?.(value)) ?? { done: true, value };
        },
      };
    },
  };
}
