/**
 * The environment variables of the command line, all of them, read and written
 * here and nowhere else.
 */
import { resolve } from "node:path";

/** What the environment sets. Flags override it. */
export interface Environment {
  /** RUNLOG_SERVER: the server's URL. */
  readonly server: string;
  /** RUNLOG_NAMESPACE. */
  readonly namespace: string;
  /** RUNLOG_RUN_ID: the run that this process is part of, the parent of what it starts. */
  readonly runId: string | undefined;
  /** RUNLOG_TOKEN: the bearer token of every call. */
  readonly token: string | undefined;
  /** RUNLOG_TOKEN_FILE: path of a file with the token. */
  readonly tokenFile: string | undefined;
  /** RUNLOG_CA: path of the authorities of servers. */
  readonly ca: string | undefined;
  /** RUNLOG_CERT: path of this client's certificate. */
  readonly cert: string | undefined;
  /** RUNLOG_KEY: path of the certificate's key. */
  readonly key: string | undefined;
}

/** What the environment sets for a server. */
export interface ServerEnvironment {
  /** RUNLOG_JOURNAL: where events are kept. A flag overrides it. */
  readonly journal: string;
  /** RUNLOG_ACCESS: path of the access file. A flag overrides it. */
  readonly access: string | undefined;
  /** RUNLOG_TLS_CERT: path of the server's certificate. A flag overrides it. */
  readonly tlsCert: string | undefined;
  /** RUNLOG_TLS_KEY: path of its key. A flag overrides it. */
  readonly tlsKey: string | undefined;
  /** RUNLOG_TLS_CLIENT_CA: path of the authorities of clients. A flag overrides it. */
  readonly tlsClientCa: string | undefined;
  /** RUNLOG_TRUST_XFCC_FROM: addresses of proxies, not yet read. A flag overrides them. */
  readonly trustXfccFrom: string | undefined;
  /** RUNLOG_ALLOW_ORIGINS: origins whose pages may call, not yet read. Flags override them. */
  readonly allowOrigins: readonly string[];
  /** RUNLOG_HOST_NAMES: names of the server, not yet read. Flags override them. */
  readonly hostNames: readonly string[];
  /** RUNLOG_LIMITS: settings `name=value`, not yet read. Flags override them. */
  readonly limits: readonly string[];
}

const names = {
  server: "RUNLOG_SERVER",
  namespace: "RUNLOG_NAMESPACE",
  runId: "RUNLOG_RUN_ID",
  token: "RUNLOG_TOKEN",
  tokenFile: "RUNLOG_TOKEN_FILE",
  ca: "RUNLOG_CA",
  cert: "RUNLOG_CERT",
  key: "RUNLOG_KEY",
  journal: "RUNLOG_JOURNAL",
  limits: "RUNLOG_LIMITS",
  access: "RUNLOG_ACCESS",
  tlsCert: "RUNLOG_TLS_CERT",
  tlsKey: "RUNLOG_TLS_KEY",
  tlsClientCa: "RUNLOG_TLS_CLIENT_CA",
  trustXfccFrom: "RUNLOG_TRUST_XFCC_FROM",
  allowOrigins: "RUNLOG_ALLOW_ORIGINS",
  hostNames: "RUNLOG_HOST_NAMES",
} as const;

/** The variable that holds limits, for messages. */
export const limitsVariable = names.limits;
/** The variable that holds the path of the access file, for messages. */
export const accessVariable = names.access;
/** The variables that hold the paths of files for TLS, for messages. */
export const tlsVariables = {
  cert: names.tlsCert,
  key: names.tlsKey,
  clientCa: names.tlsClientCa,
  trustXfccFrom: names.trustXfccFrom,
} as const;
/** The variables that hold origins and names of the server, for messages. */
export const browserVariables = {
  allowOrigins: names.allowOrigins,
  hostNames: names.hostNames,
} as const;
/** The variable that holds the journal's URL, for messages. */
export const journalVariable = names.journal;

/** Where `runlog serve` listens unless told otherwise. */
const defaultServerUrl = "http://127.0.0.1:7400";

/** The namespace unless another one is named. */
export const defaultNamespace = "default";

const defaultJournal = "sqlite:runlog.db";

/** Reads the environment; an empty variable counts as unset. */
export function readEnvironment(): Environment {
  return {
    server: process.env[names.server] || defaultServerUrl,
    namespace: process.env[names.namespace] || defaultNamespace,
    runId: process.env[names.runId] || undefined,
    token: process.env[names.token] || undefined,
    tokenFile: process.env[names.tokenFile] || undefined,
    ca: process.env[names.ca] || undefined,
    cert: process.env[names.cert] || undefined,
    key: process.env[names.key] || undefined,
  };
}

/** Reads the environment of a server. */
export function readServerEnvironment(): ServerEnvironment {
  const journal = process.env[names.journal] || defaultJournal;
  return {
    journal,
    access: process.env[names.access] || undefined,
    tlsCert: process.env[names.tlsCert] || undefined,
    tlsKey: process.env[names.tlsKey] || undefined,
    tlsClientCa: process.env[names.tlsClientCa] || undefined,
    trustXfccFrom: process.env[names.trustXfccFrom] || undefined,
    allowOrigins: wordsIn(process.env[names.allowOrigins]),
    hostNames: wordsIn(process.env[names.hostNames]),
    limits: wordsIn(process.env[names.limits]),
  };
}

function wordsIn(text = ""): readonly string[] {
  return text.split(/\s+/).filter((word) => word !== "");
}

/**
 * The environment of a process that is part of the run `runId`. It reaches the same server, with
 * a token of its own or none: this process's token and certificate are not handed on, whether
 * flags or the environment named them.
 *
 * @param tokenFile with its own token
 */
export function childEnvironment({
  server,
  namespace,
  runId,
  ca,
  tokenFile,
}: Pick<Environment, "server" | "namespace" | "ca" | "tokenFile"> & {
  readonly runId: string;
}): NodeJS.ProcessEnv {
  const own: readonly string[] = [names.token, names.tokenFile, names.cert, names.key];
  const rest = Object.entries(process.env).filter(([name]) => !own.includes(name));
  return {
    ...Object.fromEntries(rest),
    ...(tokenFile !== undefined && { [names.tokenFile]: tokenFile }),
    [names.server]: server,
    [names.namespace]: namespace,
    [names.runId]: runId,
    // The process may change its directory.
    ...(ca !== undefined && { [names.ca]: resolve(ca) }),
  };
}

/** For `--help`. */
export const environmentHelp = `
Environment:
  ${names.server}     URL of the server (default ${defaultServerUrl})
  ${names.namespace}  namespace (default "default")
  ${names.token}      bearer token to send with every call
  ${names.tokenFile} file with the bearer token, read again when it changes;
                    exec gives its command one for its run alone
  ${names.ca}         authorities of servers, in PEM, for https:// (default: Node's)
  ${names.cert}, ${names.key}
                    certificate of this client and its key, in PEM
  ${names.runId}     the run that this process belongs to: the default parent
                    of runs that ingest, exec and fork start; exec sets it for its command
`;
