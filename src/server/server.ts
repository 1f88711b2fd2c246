/** Puts a server together: journal, engine, services, port; and takes it apart again in order. */
import { isIP } from "node:net";
import type { DescService } from "@bufbuild/protobuf";
import { createContextValues, type ServiceImpl } from "@connectrpc/connect";
import type { Logger } from "pino";
import { Health } from "../../gen/grpc/health/v1/health_pb.js";
import { AdminService } from "../../gen/runlog/v1/admin_pb.js";
import { AuthService } from "../../gen/runlog/v1/auth_pb.js";
import { IngestService } from "../../gen/runlog/v1/ingest_pb.js";
import { RunService } from "../../gen/runlog/v1/run_pb.js";
import { SubscribeService } from "../../gen/runlog/v1/subscribe_pb.js";
import type { Journal } from "../journal/journal.ts";
import { nameOfJournal, openJournal, placeOfJournal } from "../journal/open.ts";
import { defaultLimits, type Limits } from "../limits.ts";
import { isUnavailable } from "../refusal.ts";
import { startTimer } from "../timers.ts";
import { adminService } from "./admin-service.ts";
import { Access } from "./auth/access.ts";
import { admitAnybody, admitBy } from "./auth/admission.ts";
import { admitFromPages, BrowserRules } from "./auth/browser-rules.ts";
import { ExposedError, isLoopback, NoAccessFileError } from "./auth/exposure.ts";
import { TrustedProxies } from "./auth/trusted-proxies.ts";
import { authService } from "./auth-service.ts";
import { Draining } from "./draining.ts";
import { type Engine, openEngine } from "./engine.ts";
import { FailureLog } from "./failure-log.ts";
import { healthService } from "./health.ts";
import { rpcHandler } from "./http/connect-handler.ts";
import { ConnectionAges } from "./http/connection-ages.ts";
import { ConnectionSlots } from "./http/connection-slots.ts";
import { handlePages } from "./http/cors.ts";
import { grpcHandler } from "./http/grpc-handler.ts";
import { keysHandler } from "./http/keys.ts";
import { type Peer, peerAt } from "./http/peer.ts";
import type { RequestHandler } from "./http/port.ts";
import { listenOn, type Ports } from "./http/ports.ts";
import { probeHandler } from "./http/probes.ts";
import { TlsFiles, type TlsPaths } from "./http/tls-files.ts";
import { ingestGrpc, ingestService } from "./ingest-service.ts";
import { Readiness } from "./readiness.ts";
import { takingMessages } from "./request-messages.ts";
import { runService } from "./run-service.ts";
import {
  type Admit,
  connectionDraining,
  type Handling,
  type ServiceContext,
} from "./service-context.ts";
import { subscribeGrpc, subscribeService } from "./subscribe-service.ts";

/** How to run a server. */
export interface ServerOptions {
  /** Address to bind to; loopback unless somebody wants it otherwise. */
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** `sqlite:PATH` or `postgres://…`. */
  readonly journal: string;
  readonly logger: Logger;
  /** TLS for `host` and `port`. Without it they speak plaintext. */
  readonly tls?: TlsPaths;
  /** An address for plaintext beside it; the same rules hold for both. */
  readonly plaintext?: { readonly host: string; readonly port: number };
  /**
   * IP addresses, or ranges of them, of proxies whose `x-forwarded-client-cert` counts.
   * Default: none.
   */
  readonly trustXfccFrom?: readonly string[];
  /** Path of the access file. Without one the server does not authenticate, and listens on loopback only. */
  readonly accessFile?: string;
  /** Listens anywhere without an access file: whoever reaches the port may do everything. */
  readonly allowAnyone?: boolean;
  /** Origins, such as `https://app.example.com`, whose pages may call from a browser. Default: none. */
  readonly allowOrigins?: readonly string[];
  /**
   * Names under which the server is reached, besides `localhost`, `host` and every IP address.
   * Without an access file, or with such names, calls under other names are refused.
   */
  readonly hostNames?: readonly string[];
  /** Milliseconds that calls may take to finish once the server drains. Default 5,000. */
  readonly drainTimeoutMs?: number;
  /** Leaves the journal's format as it is. Default false. */
  readonly holdFormat?: boolean;
  /** Where they differ from the defaults. */
  readonly limits?: Partial<Limits>;
  /**
   * Called with one line that says why, once the process can never write to the
   * journal again: it should end, and be started anew.
   */
  readonly onFatal?: (problem: string) => void;
  /** Wraps the journal once it is open; tests crash and fail it there. */
  readonly wrapJournal?: (journal: Journal) => Journal;
}

/** A server that serves. */
export interface RunningServer {
  /** http://HOST:PORT, or https://HOST:PORT with TLS. */
  readonly url: string;
  /** http://HOST:PORT of the port for plaintext beside it. */
  readonly plaintextUrl: string | undefined;
  /** Where events are kept, for people: the path of a file, or the hosts of a database. */
  readonly journal: string;
  /**
   * Goes away: reports NOT_SERVING, asks streams to finish, ends those that do
   * not in time, closes the journal. Resolves in drainTimeoutMs and a little.
   */
  drain(): Promise<void>;
}

const defaultDrainTimeoutMs = 5_000;
/** Milliseconds from the end of the last call until connections are cut. */
const closeTimeoutMs = 1_000;
/** No response is as large as this, so none is compressed: gzip costs four fifths of the speed. */
const neverCompress = 0xffff_ffff;

/**
 * Starts a server.
 *
 * @throws ExposedError where it would serve everybody on a network
 * @throws NoAccessFileError where certificates would identify callers without one
 * @throws ProxyAddressError
 * @throws OriginError, HostNameError
 * @throws MistakeError for an access file that is wrong
 * @throws TlsFileError for a certificate or key that cannot be used
 * @throws JournalOpenError where the journal cannot be opened
 * @throws the system's error where the port cannot be bound, EADDRINUSE for one
 */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { logger, accessFile } = options;
  for (const { host } of [options, options.plaintext ?? options]) {
    if (accessFile === undefined && options.allowAnyone !== true && !isLoopback(host)) {
      throw new ExposedError(host);
    }
  }
  const proxies = new TrustedProxies(options.trustXfccFrom ?? []);
  const isByCertificate = options.tls?.clientCa !== undefined || !proxies.isEmpty;
  if (accessFile === undefined && isByCertificate) throw new NoAccessFileError();
  const pages = new BrowserRules({
    origins: options.allowOrigins ?? [],
    hostNames: hostNamesOf(options),
  });
  const tls = options.tls === undefined ? undefined : await TlsFiles.open(options.tls, logger);
  let access: Access | undefined;
  try {
    access = accessFile === undefined ? undefined : await Access.open(accessFile, { logger });
    const admit = access === undefined ? admitAnybody : admitBy(access, proxies, logger);
    return await start(options, admit, pages, access, tls);
  } catch (error) {
    await access?.close();
    await tls?.close();
    throw error;
  }
}

/** The names under which the server may be called; undefined: all. */
function hostNamesOf({ accessFile, host, plaintext, hostNames = [] }: ServerOptions) {
  if (accessFile !== undefined && hostNames.length === 0) return undefined;
  const listening = [host, plaintext?.host ?? host].filter((one) => isIP(one) === 0);
  return [...listening, ...hostNames];
}

async function start(
  options: ServerOptions,
  admit: Admit,
  pages: BrowserRules,
  access: Access | undefined,
  tls: TlsFiles | undefined,
): Promise<RunningServer> {
  const { logger } = options;
  const drainTimeoutMs = options.drainTimeoutMs ?? defaultDrainTimeoutMs;
  const limits: Limits = { ...defaultLimits, ...options.limits };
  const opened = await openJournal(options.journal, {
    ...limits,
    logger,
    holdFormat: options.holdFormat ?? false,
  });
  const journal = options.wrapJournal?.(opened) ?? opened;
  const failures = new FailureLog(logger);
  const onFailure = (error: unknown) => failures.failed(error);
  const onClock = (text: string) => logger.warn(text);
  const engine = await openEngine({ journal, limits, now: Date.now, onFailure, onClock }).catch(
    async (error: unknown) => {
      await journal.close();
      throw error;
    },
  );
  const context: ServiceContext = {
    ...engine,
    draining: new Draining(),
    onUnexpected(error) {
      if (isUnavailable(error)) failures.failed(error);
      else logger.error({ err: error }, "a call failed unexpectedly");
    },
  };
  const { health } = journal;
  const { draining } = context;
  const readiness = new Readiness({ draining, health, awayMs: engine.awayMs, limits });
  if (health !== undefined) failures.follow(health, options.onFatal ?? (() => undefined));
  const ages = new ConnectionAges(context.draining, limits.maxConnectionAgeMs, drainTimeoutMs);
  const { maxMessageBytes: maxBytes, messageTimeoutMs } = limits;
  const handling: Handling = {
    contextValues: (session) =>
      createContextValues().set(connectionDraining, ages.drainingOf(session)),
    admit: admitFromPages(pages, admit, logger),
    onFailure: (method, error) => logger.warn({ err: error, method }, "a response was cut"),
  };
  let ports: Ports;
  try {
    ports = await listenOn(options, tls, {
      handler: handlePages(pages.origins, requestHandler(context, readiness, handling, access)),
      streamHandler: grpcHandler({
        ...handling,
        streams: [ingestGrpc(context), subscribeGrpc(context)],
        bounds: { maxBytes, messageTimeoutMs, memory: engine.memory.messages },
        frames: engine.memory.frames,
      }),
      onSession: (session) => ages.add(session, msOf(peerAt(session))),
      onFault: (error) => logger.error({ err: error }, "a connection or request failed"),
      firstBytesTimeoutMs: limits.firstBytesTimeoutMs,
      slots: new ConnectionSlots(limits.maxConnections),
      onRefused: refusalLog(logger, limits.maxConnections),
    });
  } catch (error) {
    readiness.stop();
    await engine.stop();
    await journal.close();
    throw error;
  }
  engine.start();
  const { url, plaintextUrl } = ports;
  logger.info(
    { url, plaintextUrl, journal: nameOfJournal(options.journal), journalId: journal.id },
    "serving",
  );
  let drained: Promise<void> | undefined;
  return {
    url,
    plaintextUrl,
    journal: placeOfJournal(options.journal),
    drain() {
      drained ??= drain(context, engine, ports, drainTimeoutMs, logger).finally(async () => {
        readiness.stop();
        await access?.close();
        await tls?.close();
      });
      return drained;
    },
  };
}

/** Milliseconds before a certificate expires at which its connection is ended. */
const renewalMs = 60_000;

/**
 * Milliseconds that a connection may last for its client's certificate: it ends before that
 * expires, or a tenth of the time before, so that the client connects with a new one in time.
 */
function msOf({ certificate }: Peer): number | undefined {
  if (certificate === undefined) return undefined;
  const leftMs = Math.max(0, certificate.validToDate.getTime() - Date.now());
  return leftMs - Math.min(renewalMs, leftMs / 10);
}

/** Milliseconds between two lines about connections that are refused. */
const refusalLogMs = 10_000;

/** Logs connections that are refused, now and then with how many. */
function refusalLog(logger: Logger, maxConnections: number): () => void {
  let refused = 0;
  let nextMs = 0;
  return () => {
    refused++;
    const nowMs = performance.now();
    if (nowMs < nextMs) return;
    nextMs = nowMs + refusalLogMs;
    logger.warn({ refused, maxConnections }, "connections are refused: too many are open");
    refused = 0;
  };
}

function requestHandler(
  context: ServiceContext,
  readiness: Readiness,
  handling: Handling,
  access: Access | undefined,
): RequestHandler {
  const { limits } = context;
  return rpcHandler({
    ...handling,
    routes(router) {
      const add = <Service extends DescService>(service: Service, impl: ServiceImpl<Service>) =>
        router.service(service, takingMessages(service, impl));
      add(RunService, runService(context));
      add(IngestService, ingestService(context));
      add(SubscribeService, subscribeService(context));
      add(AdminService, adminService(context));
      add(AuthService, authService(context, access));
      add(Health, healthService(readiness));
    },
    maxMessageBytes: limits.maxMessageBytes,
    onUnexpected: context.onUnexpected,
    messageTimeoutMs: limits.messageTimeoutMs,
    memory: context.memory,
    router: { readMaxBytes: limits.maxMessageBytes, compressMinBytes: neverCompress },
    fallback: keysHandler(() => access?.publicKeys, probeHandler(context.draining, readiness)),
  });
}

async function drain(
  context: ServiceContext,
  engine: Engine,
  ports: Ports,
  timeoutMs: number,
  logger: Logger,
): Promise<void> {
  logger.info("draining");
  // Subscriptions end, producers are asked to, and health says NOT_SERVING.
  context.draining.start();
  ports.stopAccepting();
  const closed = ports.closed();
  if (!(await within(timeoutMs, closed))) {
    context.draining.end();
    void context.deletions.stop();
    void context.cancellations.stop();
    if (!(await within(closeTimeoutMs, closed))) {
      logger.warn("cutting connections that did not close in time");
      ports.destroy();
      await closed;
    }
  }
  await engine.stop();
  await context.journal.close();
  logger.info("drained");
}

/** Whether a promise is settled within some milliseconds. */
async function within(timeoutMs: number, promise: Promise<void>): Promise<boolean> {
  const { promise: timeout, resolve } = Promise.withResolvers<boolean>();
  const timer = startTimer(() => resolve(false), timeoutMs);
  try {
    return await Promise.race([promise.then(() => true), timeout]);
  } finally {
    clearTimeout(timer);
  }
}
