/** Types of dynarust.js, and what every option means. */

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** How long a value lives: seconds, or a duration such as `"500ms"`, `"30s"`, `"1h30m"`, `"7d"`. */
export type Ttl = number | string;

export interface ClientOptions {
  /** Sent as `Authorization: Bearer`. A function is asked before each request and each reconnection. */
  token?: string | (() => string | Promise<string>);
  /** Milliseconds that a call may take, with all attempts. Default 10,000. */
  timeout?: number;
  /**
   * Whether a `put` or `delete` without a condition is sent again when the connection broke and nobody knows whether it was made. Default
   * false: such a call throws `OutcomeUnknownError`, as every other write does. With true it may undo what others wrote in between.
   */
  retryWrites?: boolean;
  /** Instead of the global `fetch`. */
  fetch?: typeof globalThis.fetch;
}

export interface CallOptions {
  /** Ends the call; it rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Milliseconds that this call may take, with all attempts, instead of the client's. */
  timeout?: number;
}

export interface ReadOptions extends CallOptions {
  /** Of a strong table: `"stale"` answers from the node that is asked, as it is. */
  read?: "linearizable" | "stale";
}

export interface ExpiryOptions {
  ttl?: Ttl;
  /** Unix milliseconds, or a date. */
  expiresAt?: number | Date;
}

/** One of these, or none. */
export interface Condition {
  /** Only over this version. */
  ifVersion?: string;
  /** Only if the key is absent. */
  ifAbsent?: boolean;
  /** Only if the key is there. */
  ifPresent?: boolean;
}

export interface ReplicaOptions {
  /** How many replicas must hold the write before it is answered. */
  w?: number | "majority" | "all";
  /** Milliseconds to wait for them, up to 60,000. Default 5,000. It comes on top of `timeout`. */
  wTimeout?: number;
}

export interface WriteOptions extends CallOptions, ExpiryOptions, Condition, ReplicaOptions {}
export interface DeleteOptions extends CallOptions, Condition, ReplicaOptions {
  /** Write the deletion even if this node does not have the key. */
  force?: boolean;
}

export interface Written {
  version: string;
  /** When, in Unix milliseconds. */
  timestamp: number;
  /** Whether the key was absent on that node. */
  created: boolean;
}

export interface Entry<V = Json> {
  key: string;
  value: V;
  version: string;
  timestamp: number;
  /** The id of the node that took the write. */
  node: string;
  /** Unix milliseconds, or `null`. */
  expiresAt: number | null;
}

/** An operation of a batch. */
export type Operation<V = Json> =
  | ({ op: "put"; key: string; value: V } & ExpiryOptions & Condition)
  | ({ op: "patch"; key: string; patch?: Json } & ExpiryOptions & Condition)
  | ({ op: "delete"; key: string; force?: boolean } & Condition);

export type BatchResult =
  | { version: string; timestamp: number; created?: boolean; deleted?: boolean; error?: undefined }
  | { error: DynaRustError };

export interface BatchOptions extends CallOptions, ExpiryOptions, ReplicaOptions {
  /** All operations or none: the first that fails is thrown. */
  atomic?: boolean;
}

export interface RangeOptions {
  /** Only keys that begin so. */
  prefix?: string;
  /** Only keys at or above this one. */
  start?: string;
  /** Only keys below this one. */
  end?: string;
}

export interface ListOptions extends ReadOptions, RangeOptions {
  /** From the highest key down. */
  reverse?: boolean;
  /** At most so many. Default all. */
  limit?: number;
  /** So many in one request, up to 10,000. Default 1,000. */
  pageSize?: number;
}

export type Comparison = { table: string; key: string } & ({ value: Json } | { version: string } | { absent: boolean });
export type TransactionOperation = { table: string } & (Operation | { op: "get"; key: string });
export interface Transaction {
  /** What must hold. */
  compare?: Comparison[];
  /** What is done if all of it holds. */
  success?: TransactionOperation[];
  /** What is done otherwise. */
  failure?: TransactionOperation[];
}
export interface TransactionResult {
  version?: string;
  timestamp?: number;
  created?: boolean;
  deleted?: boolean;
  value?: Json;
  expiresAt?: number | null;
  absent?: boolean;
}

export type Event<V = Json> =
  | { type: "updated"; table: string; key: string; value: V; version: string; timestamp: number; node: string; expiresAt: number | null; cursor: string | null }
  | { type: "deleted"; table: string; key: string; version: string; timestamp: number; node: string; reason: "delete" | "expired"; cursor: string | null }
  /** The current values are complete; changes follow. */
  | { type: "sync"; cursor: string | null }
  /** Something was missed: forget what you have. The current values and `sync` follow. */
  | { type: "resync"; cursor: null }
  /** Values are missing in this snapshot, which the node cannot read. */
  | { type: "incomplete"; detail: string; cursor: string | null };

export interface StateChange {
  state: "connected" | "disconnected";
  endpoint: string;
  /** Why; `null` where the node stopped in good order. */
  error: DynaRustError | null;
}

export interface WatchOptions {
  /** First the current values as `updated`, then `sync`, then changes. */
  snapshot?: boolean;
  /** Go on after the event with this cursor, of whichever node. */
  since?: string;
  signal?: AbortSignal;
  /** Called for each connection that begins and ends: to show it, nothing else. The watch goes on by itself. */
  onState?: (change: StateChange) => void;
}

/** Which keys: one, several, those that begin so; `undefined`: all of the table. */
export type What = string | { key?: string; keys?: string[]; prefix?: string | string[] } | undefined;

export class Watch<V = Json> implements AsyncIterableIterator<Event<V>> {
  private constructor();
  /** The position of the last event; `null` while the values of a snapshot arrive, up to the `sync`. */
  readonly cursor: string | null;
  /** Resolves once a node has accepted the subscription: every change from then on is an event. */
  readonly opened: Promise<void>;
  /** Ends the iteration. */
  close(): void;
  next(): Promise<IteratorResult<Event<V>>>;
  return(value?: unknown): Promise<IteratorResult<Event<V>>>;
  [Symbol.asyncIterator](): this;
}

export interface Live {
  close(): void;
  /** Resolves after `close`; rejects if the node refuses, or the callback throws. */
  closed: Promise<void>;
}

export interface RequestOptions extends CallOptions {
  query?: Record<string, string | number | boolean | string[] | undefined>;
  headers?: Record<string, string>;
  /** Sent as JSON. */
  body?: unknown;
  /** What may be sent again when nobody knows what became of it: all but `"once"`. Default `"read"` for GET, else `"once"`. */
  kind?: "read" | "repeatable" | "once";
  /** Milliseconds on top of `timeout`. */
  patience?: number;
}
export interface Answer {
  status: number;
  headers: Headers;
  body: any;
  endpoint: string;
}

/** A cluster: any of its nodes. */
export class DynaRust {
  /** Default: the page's own origin in a browser, elsewhere `http://127.0.0.1:6660`. */
  constructor(endpoints?: string | string[], options?: ClientOptions);
  /** The endpoint that answered last, or is tried next. */
  readonly endpoint: string;
  readonly endpoints: string[];
  table<V = Json>(name: string): Table<V>;
  /** True if it was not there before. Default mode `"strong"`. */
  createTable(name: string, options?: CallOptions & { mode?: "strong" | "eventual" }): Promise<boolean>;
  tables(options?: CallOptions): Promise<{ name: string; mode: string; keys: number; tombstones: number; root: string | null }[]>;
  transaction(transaction: Transaction, options?: CallOptions): Promise<{ succeeded: boolean; results: TransactionResult[] }>;
  /** Follows topics of many tables: `table/key`, `table/*`, `table/prefix*`. */
  watch(topics: string | string[], options?: WatchOptions): Watch;
  /** Any other request, with the same failover. */
  request(method: string, path: string, options?: RequestOptions): Promise<Answer>;
}

export class Table<V = Json> {
  private constructor();
  readonly name: string;
  /** `undefined` if the key is absent. */
  get(key: string, options?: ReadOptions): Promise<V | undefined>;
  getEntry(key: string, options?: ReadOptions): Promise<Entry<V> | undefined>;
  /** In the order of `keys`, without those that are absent. */
  getMany(keys: Iterable<string>, options?: ReadOptions): Promise<Map<string, V>>;
  getEntries(keys: Iterable<string>, options?: ReadOptions): Promise<Map<string, Entry<V>>>;
  put(key: string, value: V, options?: WriteOptions): Promise<Written>;
  /** An array is a JSON Patch (RFC 6902), anything else a merge patch (RFC 7396); `undefined` changes the expiry only. */
  patch(key: string, patch: Json | undefined, options?: WriteOptions): Promise<Written>;
  /** Whether the key was there. */
  delete(key: string, options?: DeleteOptions): Promise<boolean>;
  /** Reads, changes and writes, again if somebody else was faster. Resolves to the value that is there then. */
  update(key: string, change: (value: V | undefined) => V | undefined | Promise<V | undefined>,
    options?: CallOptions & ExpiryOptions & ReplicaOptions): Promise<V | undefined>;
  batch(operations: Operation<V>[], options?: BatchOptions): Promise<BatchResult[]>;
  keys(options?: ListOptions): AsyncGenerator<string, void, undefined>;
  entries(options?: ListOptions): AsyncGenerator<Entry<V>, void, undefined>;
  count(options?: ReadOptions & RangeOptions): Promise<number>;
  /** How many keys it deleted. */
  deleteMany(options: CallOptions & ReplicaOptions & ({ prefix: string } | { all: true })): Promise<number>;
  watch(what?: What, options?: WatchOptions): Watch<V>;
  /** Keeps a Map current: calls back once when it is complete, then after each change. */
  live(what: What, callback: (values: Map<string, V>, event: Event<V>) => void | Promise<void>,
    options?: Pick<WatchOptions, "signal" | "onState">): Live;
}

/** What all errors are. */
export class DynaRustError extends Error {
  /** A code of docs/errors.md, or `connection`, `timeout`, `closed`. */
  readonly code: string;
  /** The HTTP status; 0 where there was no answer. */
  readonly status: number;
  readonly endpoint: string | null;
  /** Names the request in the node's log. */
  readonly requestId: string | null;
  /** The whole answer. */
  readonly body: Record<string, any>;
}
/** The request is wrong: correct it. */
export class BadRequestError extends DynaRustError {}
/** The token is missing, wrong, expired or revoked. */
export class UnauthorizedError extends DynaRustError {}
/** The token does not give this right, or the page's origin is not in `--cors-origin`. */
export class ForbiddenError extends DynaRustError {}
/** A `patch` of an absent key, or an unknown path. */
export class NotFoundError extends DynaRustError {}
/** The patch does not apply, or the table has the other mode. */
export class ConflictError extends DynaRustError {}
/** A condition does not hold. */
export class PreconditionFailedError extends DynaRustError {
  /** The current one; `null` if the key is absent. */
  readonly version: string | null;
}
/** A limit of the node is reached. */
export class TooManyError extends DynaRustError {}
/** No node could take it in time. A write was not made. */
export class UnavailableError extends DynaRustError {}
/** No endpoint answers. A write was not made. */
export class ConnectionError extends UnavailableError {}
/** No answer in time. A write was not made. */
export class TimeoutError extends UnavailableError {}
/** The write is kept, but fewer replicas than wanted confirmed it in time. */
export class NotEnoughReplicasError extends DynaRustError {
  readonly held: number;
  readonly wanted: number;
  readonly version: string;
}
/** The write may have been made, or not: read the key before you write again. */
export class OutcomeUnknownError extends DynaRustError {}
/** The node failed, or a part of its disk is damaged. */
export class ServerError extends DynaRustError {}
