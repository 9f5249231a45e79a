/**
 * A client for DynaRust, for browsers and Node.js 18 and newer. It needs nothing but `fetch`.
 *
 *     import { DynaRust } from "./dynarust.js";
 *     const db = new DynaRust(["http://10.0.0.1:6660", "http://10.0.0.2:6660"]);
 *     await db.table("users").put("alice", { name: "Alice" });
 *
 * Every node holds everything, so any of the endpoints will do: the client stays with one while that answers, and moves on when it
 * does not. Types and the meaning of every option are in `dynarust.d.ts`.
 */

/** How long a call may take in all, with every attempt, unless it says otherwise. */
const TIMEOUT_MS = 10_000;
/** One attempt gets its share of that, but not less than this: a busy node may take a moment. */
const ATTEMPT_MS_MIN = 1_000;
/** Pauses between rounds over all endpoints: short, as a node restarts within a second or two; then longer, to spare it. */
const PAUSE_MS_FIRST = 50;
const PAUSE_MS_MAX = 2_000;
/** An idle stream sends a comment every 15 s. After three missed ones it is dead, whatever TCP says. */
const STREAM_IDLE_MS = 45_000;
/** How long a node may take to begin a stream. */
const STREAM_OPEN_MS = 10_000;
/** A stream that lasted so long did not fail, even if nothing changed meanwhile. */
const STREAM_STEADY_MS = 10_000;
/** The longest event: the largest value that a node can be set to take (64 MiB), escaped in the worst way. */
const EVENT_CHARACTERS_MAX = 512 * 1024 * 1024;
/** Keys of one page of a listing, unless it says otherwise. */
const PAGE_SIZE = 1_000;
/** How often `update` tries again after somebody else was faster. */
const UPDATES_MAX = 32;
/** How long a node waits for the replicas of `w` unless `wTimeout` says otherwise. */
const REPLICAS_TIMEOUT_MS = 5_000;

/** Errors of Node.js that say that the request never left this machine. A browser does not tell. */
const NOT_SENT = new Set([
  "ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "UND_ERR_CONNECT_TIMEOUT",
]);

/** Errors of Node.js for a certificate that is not to be trusted. Time does not mend it. */
const CERTIFICATE = /CERT|SELF_SIGNED|UNABLE_TO_VERIFY/;

// Errors

/** What all errors of this library are. `code` is one of docs/errors.md, or `connection`, `timeout`. */
export class DynaRustError extends Error {
  constructor(message, { code, status = 0, endpoint = null, body = {}, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = this.constructor.name;
    this.code = code;
    this.status = status;
    this.endpoint = endpoint;
    this.requestId = body.request_id ?? null;
    this.body = body;
  }
}
/** The request is wrong: correct it. */
export class BadRequestError extends DynaRustError {}
/** The token is missing, wrong, expired or revoked. */
export class UnauthorizedError extends DynaRustError {}
/** The token does not give this right, or the page's origin is not in `--cors-origin`. */
export class ForbiddenError extends DynaRustError {}
/** A `patch` of an absent key. Reads and `delete` return that instead. */
export class NotFoundError extends DynaRustError {}
/** The patch does not apply to the value, or the table has the other mode. */
export class ConflictError extends DynaRustError {}
/** A condition does not hold. `version` is the current one, `null` if the key is absent. */
export class PreconditionFailedError extends DynaRustError {
  get version() { return this.body.version ?? null; }
}
/** A limit of the node is reached. */
export class TooManyError extends DynaRustError {}
/** No node could take the request in time. A write was not made. */
export class UnavailableError extends DynaRustError {}
/** No endpoint answers. A write was not made. */
export class ConnectionError extends UnavailableError {}
/** No answer in time. A write was not made. */
export class TimeoutError extends UnavailableError {}
/** The write is kept, but fewer replicas than wanted confirmed it in time. */
export class NotEnoughReplicasError extends DynaRustError {
  get held() { return this.body.held; }
  get wanted() { return this.body.wanted; }
  get version() { return this.body.version; }
}
/** The write may have been made, or not: read the key before you write again. */
export class OutcomeUnknownError extends DynaRustError {}
/** The node failed, or its disk is full, or a part of it is damaged. A write may have been made. */
export class ServerError extends DynaRustError {}

const CLASSES = {
  "unauthorized": UnauthorizedError,
  "forbidden": ForbiddenError,
  "not-found": NotFoundError,
  "conflict": ConflictError,
  "wrong-mode": ConflictError,
  "precondition-failed": PreconditionFailedError,
  "too-many": TooManyError,
  "request-timeout": UnavailableError,
  "not-enough-replicas": NotEnoughReplicasError,
  "outcome-unknown": OutcomeUnknownError,
};

/** The error of an answer. One without DynaRust's body is from a proxy. */
function errorOf(status, body, endpoint) {
  const code = typeof body.error === "string" ? body.error : `http-${status}`;
  const byStatus = status === 503 ? UnavailableError : status >= 500 ? ServerError
    : status === 401 ? UnauthorizedError : status === 403 ? ForbiddenError : BadRequestError;
  const Class = CLASSES[code] ?? byStatus;
  return new Class(body.detail ?? `HTTP status ${status}`, { code, status, endpoint, body });
}

// Options

/** Nothing is ignored: an option that is not known is an error that names those that are. */
function checkNames(options, known, where) {
  for (const name of Object.keys(options)) {
    if (!known.includes(name)) {
      throw new TypeError(`${where}: unknown option "${name}"; known are ${known.join(", ")}`);
    }
  }
}

const CALL = ["signal", "timeout"];
const CONDITION = ["ifVersion", "ifAbsent", "ifPresent"];
const EXPIRY = ["ttl", "expiresAt"];
const REPLICAS = ["w", "wTimeout"];
const RANGE = ["prefix", "start", "end"];

/** The conditions as header fields. */
function conditions({ ifVersion, ifAbsent, ifPresent }) {
  if ([ifVersion !== undefined, ifAbsent, ifPresent].filter(Boolean).length > 1) {
    throw new TypeError("give one of ifVersion, ifAbsent and ifPresent");
  }
  if (ifVersion === null) throw new TypeError("ifVersion is null: for a key that is to be absent, say ifAbsent: true");
  if (ifVersion !== undefined) return { "If-Match": `"${ifVersion}"` };
  if (ifAbsent) return { "If-None-Match": "*" };
  return ifPresent ? { "If-Match": "*" } : {};
}

function hasCondition({ ifVersion, ifAbsent, ifPresent }) {
  return ifVersion !== undefined || Boolean(ifAbsent) || Boolean(ifPresent);
}

/** A time as Unix milliseconds. */
const milliseconds = (time) => (time instanceof Date ? time.getTime() : time);

const expiry = ({ ttl, expiresAt }) => ({ ttl, expires_at: milliseconds(expiresAt) });

/** The longest that a write may wait for replicas, on top of its own time; `wTimeout` is in milliseconds. */
const replicasWait = ({ w, wTimeout }) => (w === undefined ? 0 : wTimeout ?? REPLICAS_TIMEOUT_MS);

function replicas({ w, wTimeout }) {
  return { w, w_timeout: wTimeout === undefined ? undefined : `${wTimeout}ms` };
}

/** An operation of a batch or a transaction, as the node takes it. */
function operation(given, at) {
  const known = ["op", "table", "key", "value", "patch", "force", ...EXPIRY, ...CONDITION];
  checkNames(given, known, `operation ${at}`);
  const { op, table, key, value, patch, force } = given;
  if (op === "put" && value === undefined) throw new TypeError(`operation ${at}: a put without a value`);
  const header = conditions(given);
  return {
    op, table, key, value, patch, force, ...expiry(given),
    if_match: unquoted(header["If-Match"]), if_none_match: unquoted(header["If-None-Match"]),
  };
}

const unquoted = (text) => text?.replaceAll('"', "");

function query(parameters) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== false) search.append(name, String(one));
    }
  }
  const text = search.toString();
  return text && `?${text}`;
}

function keyPath(table, key) {
  if (typeof key !== "string") throw new TypeError(`a key is a string, not ${typeof key}`);
  // A URL has no such last part, escaped or not: whoever takes it apart would go one up.
  if (key === "." || key === "..") throw new TypeError(`no URL can name the key "${key}": use batch and getMany`);
  return `/${encodeURIComponent(table)}/key/${encodeURIComponent(key)}`;
}

// Waiting

/** A signal that follows another one, and a time that `restart` begins anew; `done` forgets both. */
function deadline(outer, milliseconds, why) {
  const controller = new AbortController();
  const follow = () => controller.abort(outer.reason);
  if (outer?.aborted) follow();
  outer?.addEventListener("abort", follow, { once: true });
  let timer;
  const restart = (time) => {
    clearTimeout(timer);
    timer = setTimeout(() => controller.abort(why), time);
  };
  restart(milliseconds);
  const done = () => {
    clearTimeout(timer);
    outer?.removeEventListener("abort", follow);
  };
  return { signal: controller.signal, restart, done };
}

/** Waits, or throws the signal's reason. */
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** The pause after so many rounds without success, random by half so that clients of one node do not come back all at once. */
function pauseAfter(round) {
  return Math.min(PAUSE_MS_MAX, PAUSE_MS_FIRST * 2 ** Math.min(round, 10)) * (0.5 + Math.random() / 2);
}

// The client

function endpointOf(text) {
  const url = new URL(/^[a-z]+:\/\//i.test(text) ? text : `http://${text}`);
  if (!["http:", "https:"].includes(url.protocol) || url.search || url.hash || url.username) {
    throw new TypeError(`"${text}" is not the address of a node: write http://HOST:PORT or https://HOST:PORT`);
  }
  return url.origin + url.pathname.replace(/\/+$/, "");
}

/** One or more nodes of a cluster, as one database. */
export class DynaRust {
  #endpoints;
  #current = 0;
  #options;

  constructor(endpoints = globalThis.location?.origin ?? "http://127.0.0.1:6660", options = {}) {
    checkNames(options, ["token", "timeout", "retryWrites", "fetch"], "DynaRust");
    this.#endpoints = [endpoints].flat().map(endpointOf);
    if (this.#endpoints.length === 0) throw new TypeError("name at least one endpoint");
    this.#options = { timeout: TIMEOUT_MS, retryWrites: false, ...options };
    // Called without the client as its `this`, which the browser's own refuses.
    const call = options.fetch ?? globalThis.fetch;
    this.#options.fetch = (...given) => call(...given);
  }

  /** The endpoint that answered last, or is tried next. */
  get endpoint() { return this.#endpoints[this.#current]; }

  get endpoints() { return [...this.#endpoints]; }

  table(name) { return new Table(this, name); }

  /** Makes a table `strong` or `eventual`; true if it was not there before. */
  async createTable(name, options = {}) {
    checkNames(options, ["mode", ...CALL], "createTable");
    const body = { mode: options.mode ?? "strong" };
    const path = `/_/tables/${encodeURIComponent(name)}`;
    return (await this.request("PUT", path, { ...call(options), body, kind: "repeatable" })).status === 201;
  }

  async tables(options = {}) {
    checkNames(options, CALL, "tables");
    return (await this.request("GET", "/_/tables", call(options))).body;
  }

  /** Tests keys of strong tables, and runs one of two lists of operations, all of it or nothing. */
  async transaction(transaction, options = {}) {
    checkNames(transaction, ["compare", "success", "failure"], "transaction");
    checkNames(options, CALL, "transaction");
    const { compare = [], success = [], failure = [] } = transaction;
    compare.forEach((one, at) => checkNames(one, ["table", "key", "value", "version", "absent"], `compare ${at}`));
    const body = { compare, success: success.map(operation), failure: failure.map(operation) };
    const kind = [...success, ...failure].every(({ op }) => op === "get") ? "read" : "once";
    const { body: answer } = await this.request("POST", "/_/txn", { ...call(options), body, kind });
    return { succeeded: answer.succeeded, results: answer.results.map((result) => resultOf(result)) };
  }

  /** Follows topics of many tables: `table/key`, `table/*`, `table/prefix*`. */
  watch(topics, options = {}) {
    return new Watch(this, "/_/subscribe", { topic: [topics].flat() }, options);
  }

  /**
   * Any request, with the same failover: for routes that have no method here. `kind` says what may be sent again when nobody knows what
   * became of it: a `read`, a write that is `repeatable`, but not one to be made `once`. Resolves to
   * `{ status, headers, body, endpoint }`; an answer of 400 and above is thrown.
   */
  async request(method, path, options = {}) {
    checkNames(options, ["query", "headers", "body", "kind", "patience", ...CALL], "request");
    const { kind = method === "GET" || method === "HEAD" ? "read" : "once", patience = 0 } = options;
    const timeout = (options.timeout ?? this.#options.timeout) + patience;
    const attemptTime = Math.max(timeout / this.#endpoints.length, ATTEMPT_MS_MIN + patience);
    const end = Date.now() + timeout;
    let isUncertain = false;
    for (let attempt = 1; ; attempt += 1) {
      const at = this.#current;
      const left = Math.max(1, Math.min(attemptTime, end - Date.now()));
      try {
        return await this.#attempt(this.#endpoints[at], method, path, options, left);
      } catch (error) {
        if (options.signal?.aborted) throw error;
        isUncertain ||= kind !== "read" && isBroken(error);
        const round = attempt / this.#endpoints.length;
        const rest = Number.isInteger(round) ? pauseAfter(round - 1) : 0;
        const isRepeated = mayRepeat(error, kind, round);
        // Also where this call ends: the next one need not wait for the same node in vain. Unless another call has moved on already.
        if ((isRepeated || isBroken(error) || isOfThisNode(error)) && this.#current === at) this.#moveOn();
        if (!isRepeated || Date.now() + rest >= end) throw isUncertain ? uncertain(error) : error;
        if (rest > 0) await pause(rest, options.signal);
      }
    }
  }

  async #attempt(endpoint, method, path, options, milliseconds) {
    const why = new TimeoutError(`no answer from ${endpoint} in time`, { code: "timeout", endpoint });
    const limit = deadline(options.signal, milliseconds, why);
    try {
      const headers = { ...await this.headers(), ...options.headers };
      const body = options.body === undefined ? undefined : JSON.stringify(options.body);
      if (body !== undefined) headers["Content-Type"] ??= "application/json";
      const url = endpoint + path + query(options.query ?? {});
      const response = await this.fetch(url, { method, headers, body, signal: limit.signal });
      const text = await response.text();
      const answer = parsed(text, response, endpoint);
      if (response.status >= 400) throw errorOf(response.status, answer ?? {}, endpoint);
      return { status: response.status, headers: response.headers, body: answer, endpoint };
    } catch (error) {
      if (limit.signal.aborted) throw limit.signal.reason;
      throw error instanceof DynaRustError || isOurs(error) ? error : broken(error, endpoint);
    } finally {
      limit.done();
    }
  }

  /** @internal The header fields of every request. */
  async headers() {
    const { token } = this.#options;
    const text = typeof token === "function" ? await token() : token;
    return text ? { Authorization: `Bearer ${text}` } : {};
  }

  /** @internal */
  fetch(url, options) {
    return this.#options.fetch(url, { ...options, redirect: "error", cache: "no-store" });
  }

  /** @internal The kind of a write without conditions. */
  get writeKind() { return this.#options.retryWrites ? "repeatable" : "once"; }

  /** @internal Takes the next endpoint, unless somebody has done so since `endpoint` was the current one. */
  moveOnFrom(endpoint) {
    if (this.endpoint === endpoint) this.#moveOn();
  }

  #moveOn() {
    this.#current = (this.#current + 1) % this.#endpoints.length;
  }
}

const call = ({ signal, timeout }) => ({ signal, timeout });

/** An error of the caller's own making, such as a header that cannot be sent or a value that is no JSON. */
function isOurs(error) {
  return error instanceof TypeError && error.cause === undefined && /JSON|header|BigInt|ByteString/i.test(error.message);
}

/** The JSON of an answer; `undefined` for none. */
function parsed(text, response, endpoint) {
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch (cause) {
    if (response.status >= 400) return undefined;
    const message = `the answer of ${endpoint} is not JSON: is that a DynaRust node?`;
    throw new ServerError(message, { code: "bad-answer", status: response.status, endpoint, cause });
  }
}

/** The error for a connection that failed. */
function broken(cause, endpoint) {
  const inner = cause?.cause ?? cause;
  const error = new ConnectionError(`no connection to ${endpoint}: ${inner?.message || inner?.code || cause.message}`,
    { code: "connection", endpoint, cause });
  error.hasBadCertificate = CERTIFICATE.test(inner?.code ?? "");
  error.wasNotSent = NOT_SENT.has(inner?.code) || error.hasBadCertificate;
  return error;
}

/** Whether the request was on its way, and nobody knows what became of it. */
function isBroken(error) {
  return error instanceof ConnectionError && !error.wasNotSent || error instanceof TimeoutError;
}

/** What the maker of a write is told who cannot know whether it was made. */
function uncertain(error) {
  if (!(error instanceof UnavailableError)) return error;
  return new OutcomeUnknownError(`the write may have been made: ${error.message}`,
    { code: "outcome-unknown", endpoint: error.endpoint, cause: error });
}

/** Whether to try again at another endpoint, or after a pause. `round`: how often all endpoints have been tried. */
function mayRepeat(error, kind, round) {
  if (isBroken(error)) return kind !== "once";
  if (!(error instanceof DynaRustError)) return false;
  // It never left, or the node says that it did nothing: another may do it, or this one later.
  if (error instanceof ConnectionError) return !error.hasBadCertificate || round < 1;
  if (error.status === 503 || error.status === 408) return true;
  // The same from all of them is the answer. Only a damaged disk is sure to have taken nothing.
  return isOfThisNode(error) && round < 1 && (kind !== "once" || error.code === "corrupt");
}

/** A damaged or full disk is that node's alone, and so is a proxy's trouble. */
function isOfThisNode(error) {
  return error instanceof DynaRustError && (error.code === "corrupt" || error.status === 507 || error.code.startsWith("http-50"));
}

/** A value with what the node knows of it. */
function entryOf(key, { value, version, timestamp, node, expires_at: expiresAt }) {
  return { key, value, version, timestamp, node, expiresAt: expiresAt ?? null };
}

/** The result of one operation of a batch or a transaction. */
function resultOf(result, endpoint) {
  if (result.error !== undefined) return { error: errorOf(result.status, result, endpoint) };
  const { status, expires_at: expiresAt, ...fields } = result;
  return expiresAt === undefined ? fields : { ...fields, expiresAt };
}

// Tables

/** A table: exists as soon as it is written to. */
export class Table {
  #db;

  constructor(db, name) {
    this.#db = db;
    this.name = name;
  }

  /** The value of a key; `undefined` if it is absent. */
  async get(key, options = {}) {
    return (await this.getEntry(key, options))?.value;
  }

  /** The value of a key with its version, time, node and expiry; `undefined` if it is absent. */
  async getEntry(key, options = {}) {
    checkNames(options, ["read", ...CALL], "get");
    const query = { meta: true, read: options.read };
    try {
      const { body } = await this.#db.request("GET", keyPath(this.name, key), { ...call(options), query });
      return entryOf(key, body);
    } catch (error) {
      if (error instanceof NotFoundError) return undefined;
      throw error;
    }
  }

  /** The values of these keys, in a Map; absent ones are not in it. */
  async getMany(keys, options = {}) {
    const entries = await this.getEntries(keys, options);
    return new Map([...entries].map(([key, entry]) => [key, entry.value]));
  }

  async getEntries(keys, options = {}) {
    checkNames(options, ["read", ...CALL], "getMany");
    const all = [...keys];
    const request = { ...call(options), query: { meta: true, read: options.read }, body: { keys: all }, kind: "read" };
    const { body } = await this.#db.request("POST", this.#path("keys"), request);
    const present = all.filter((key) => Object.hasOwn(body, key));
    return new Map(present.map((key) => [key, entryOf(key, body[key])]));
  }

  /** Writes a value. Resolves to `{ version, timestamp, created }`. */
  async put(key, value, options = {}) {
    checkNames(options, [...EXPIRY, ...CONDITION, ...REPLICAS, ...CALL], "put");
    if (value === undefined) throw new TypeError("undefined is no JSON value: to remove a key, delete it");
    return this.#write("PUT", key, options, { body: { value, ...expiry(options) } });
  }

  /** Changes a part of a value: a list is a JSON Patch, anything else a merge patch. With `undefined` only the expiry. */
  async patch(key, patch, options = {}) {
    checkNames(options, [...EXPIRY, ...CONDITION, ...REPLICAS, ...CALL], "patch");
    const type = `application/${Array.isArray(patch) ? "json-patch" : "merge-patch"}+json`;
    const headers = patch === undefined ? {} : { "Content-Type": type };
    return this.#write("PATCH", key, options, { body: patch, headers, query: expiry(options), once: true });
  }

  /** Deletes a key; whether it was there. */
  async delete(key, options = {}) {
    checkNames(options, ["force", ...CONDITION, ...REPLICAS, ...CALL], "delete");
    try {
      await this.#write("DELETE", key, options, { query: { force: options.force } });
      return true;
    } catch (error) {
      if (error instanceof NotFoundError) return false;
      throw error;
    }
  }

  async #write(method, key, options, { once = false, ...request }) {
    const kind = once || hasCondition(options) ? "once" : this.#db.writeKind;
    const { body, headers } = await this.#db.request(method, keyPath(this.name, key), {
      ...call(options), kind, patience: replicasWait(options), body: request.body,
      query: { ...request.query, ...replicas(options) }, headers: { ...request.headers, ...conditions(options) },
    });
    return { version: body.version, timestamp: body.timestamp, created: headers.get("DynaRust-Created") === "true" };
  }

  /**
   * Reads a value, lets `change` make a new one of it, and writes that if nobody wrote meanwhile; otherwise again. `change` gets
   * `undefined` for an absent key; if it returns `undefined` nothing is written. Resolves to the entry's new value.
   */
  async update(key, change, options = {}) {
    checkNames(options, [...EXPIRY, ...REPLICAS, ...CALL], "update");
    for (let attempt = 1; ; attempt += 1) {
      const entry = await this.getEntry(key, call(options));
      const value = await change(entry?.value);
      if (value === undefined) return entry?.value;
      try {
        await this.put(key, value, { ...options, ...(entry ? { ifVersion: entry.version } : { ifAbsent: true }) });
        return value;
      } catch (error) {
        if (!(error instanceof PreconditionFailedError) || attempt === UPDATES_MAX) throw error;
        await pause(Math.random() * 2 * attempt, options.signal);
      }
    }
  }

  /** Writes many keys in one commit. Resolves to one result for each operation: a version, or an `error`. */
  async batch(operations, options = {}) {
    checkNames(options, ["atomic", ...EXPIRY, ...REPLICAS, ...CALL], "batch");
    const { body, endpoint } = await this.#db.request("POST", this.#path("batch"), {
      ...call(options), patience: replicasWait(options), body: operations.map(operation),
      query: { atomic: options.atomic, ...expiry(options), ...replicas(options) },
    });
    return body.results.map((result) => resultOf(result, endpoint));
  }

  /** All keys in order, page by page. */
  async *keys(options = {}) {
    for await (const page of this.#pages("keys", options, {})) yield* page;
  }

  /** All entries in order, page by page. */
  async *entries(options = {}) {
    for await (const page of this.#pages("store", options, { meta: true })) {
      const sorted = Object.entries(page).sort(([one], [other]) => compareKeys(one, other));
      if (options.reverse) sorted.reverse();
      for (const [key, entry] of sorted) yield entryOf(key, entry);
    }
  }

  async *#pages(path, options, fixed) {
    checkNames(options, [...RANGE, "reverse", "limit", "pageSize", "read", ...CALL], path === "keys" ? path : "entries");
    const { prefix, start, end, reverse, read, limit = Infinity, pageSize = PAGE_SIZE } = options;
    let cursor;
    for (let left = limit; left > 0;) {
      const query = { prefix, start, end, reverse, read, cursor, limit: Math.min(left, pageSize), ...fixed };
      const { body, headers } = await this.#db.request("GET", this.#path(path), { ...call(options), query });
      yield body;
      left -= Array.isArray(body) ? body.length : Object.keys(body).length;
      cursor = headers.get("DynaRust-Next-Cursor");
      if (cursor === null) return;
    }
  }

  async count(options = {}) {
    checkNames(options, [...RANGE, "read", ...CALL], "count");
    const { signal, timeout, ...query } = options;
    return (await this.#db.request("GET", this.#path("count"), { signal, timeout, query })).body.count;
  }

  /** Deletes all keys that begin so, or with `{ all: true }` every key; how many. */
  async deleteMany(options) {
    checkNames(options, ["prefix", "all", ...REPLICAS, ...CALL], "deleteMany");
    const { prefix, all } = options;
    if (Boolean(all) === Boolean(prefix)) throw new TypeError("deleteMany: give a prefix, or all: true");
    const query = { prefix, confirm: all ? this.name : undefined, ...replicas(options) };
    const request = { ...call(options), query, patience: replicasWait(options), kind: this.#db.writeKind };
    return (await this.#db.request("DELETE", `/${encodeURIComponent(this.name)}`, request)).body.deleted;
  }

  /** Follows a key, `{ keys: [..] }`, `{ prefix: ".." }` or, with nothing, the whole table. */
  watch(what, options = {}) {
    const { key, keys, prefix } = typeof what === "string" ? { key: what } : what ?? {};
    if (what && typeof what === "object") checkNames(what, ["key", "keys", "prefix"], "watch");
    const chosen = { key: [...(keys ?? []), ...(key === undefined ? [] : [key])], prefix };
    return new Watch(this.#db, this.#path("subscribe"), chosen, options);
  }

  /**
   * Keeps a Map of key to value current, and calls back with it whenever it changed: once when it is complete, then after each change.
   * `closed` resolves after `close`, and rejects if the node refuses.
   */
  live(what, callback, options = {}) {
    checkNames(options, ["signal", "onState"], "live");
    const watch = this.watch(what, { ...options, snapshot: true });
    return { close: () => watch.close(), closed: follow(watch, callback) };
  }

  #path(route) { return `/${encodeURIComponent(this.name)}/${route}`; }
}

/** The order of the keys' bytes in UTF-8. An object has keys that are numbers first, and strings compare by UTF-16. */
function compareKeys(one, other) {
  const length = Math.min(one.length, other.length);
  let at = 0;
  while (at < length && one.charCodeAt(at) === other.charCodeAt(at)) at += 1;
  if (at === length) return one.length - other.length;
  // Surrogates stand for what is above all single units.
  const rank = (unit) => (unit < 0xd800 ? unit : unit < 0xe000 ? unit + 0x2000 : unit - 0x800);
  return rank(one.charCodeAt(at)) - rank(other.charCodeAt(at));
}

async function follow(watch, callback) {
  let map = new Map();
  let isComplete = false;
  for await (const event of watch) {
    if (event.type === "resync") {
      // The callback goes on to see the old one until the new one is complete.
      map = new Map();
      isComplete = false;
    } else if (event.type === "sync") {
      isComplete = true;
    } else if (event.type === "updated") {
      map.set(event.key, event.value);
    } else if (event.type === "deleted") {
      map.delete(event.key);
    }
    if (isComplete) await callback(map, event);
  }
}

// Watching

const TYPES = { Updated: "updated", Deleted: "deleted", sync: "sync", resync: "resync", incomplete: "incomplete" };
const CLOSED = new DynaRustError("the watch was closed", { code: "closed" });

/**
 * The events of a subscription, to be read with `for await`. It begins at once. If the connection breaks, or the node stops, it goes on at
 * the next endpoint from where it was: that node sends what was missed, or a `resync` and all current values.
 */
export class Watch {
  /** The position of the last event: `since` of another watch goes on from here. `null` while the values
   *  of a snapshot arrive, up to the `sync`. */
  cursor;
  /** Resolves once a node has accepted the subscription: changes from then on are seen. Rejects if it is refused, or closed before. */
  opened;
  #db;
  #path;
  #chosen;
  #onState;
  #wantsSnapshot;
  /** Whether a node has accepted it before: something may have been missed since. */
  #hasBegun = false;
  /** Whether the values of a snapshot arrive. Until all have, no position is a point to go on from. */
  #isInSnapshot = false;
  /** Whether the reader has been given values that a new snapshot makes void. */
  #hasValues = false;
  #failures = 0;
  #accept;
  #refuse;
  #closing = new AbortController();
  #outer;
  #events;
  #first;

  constructor(db, path, chosen, options) {
    checkNames(options, ["snapshot", "since", "signal", "onState"], "watch");
    this.#db = db;
    this.#path = path;
    this.#chosen = chosen;
    this.#onState = options.onState ?? (() => {});
    this.cursor = options.since ?? null;
    this.#wantsSnapshot = Boolean(options.snapshot);
    this.#outer = options.signal;
    this.opened = new Promise((accept, refuse) => {
      this.#accept = accept;
      this.#refuse = refuse;
    });
    this.opened.catch(() => {});
    this.#events = this.#run();
    // Begins now, not when somebody reads: whoever writes next is to see it.
    this.#first = this.#events.next();
    this.#first.catch(() => {});
  }

  /** Ends it: whoever reads it comes to the end. */
  close() { this.#closing.abort(CLOSED); }

  next() {
    if (this.#closing.signal.reason === CLOSED) return this.return();
    const first = this.#first;
    this.#first = undefined;
    return first ?? this.#events.next();
  }

  async return(value) {
    this.close();
    this.#first = undefined;
    await this.#events.return();
    return { done: true, value };
  }

  [Symbol.asyncIterator]() { return this; }

  async [Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")]() { await this.return(); }

  async *#run() {
    const stop = () => this.#closing.abort(this.#outer.reason);
    if (this.#outer?.aborted) stop();
    this.#outer?.addEventListener("abort", stop, { once: true });
    try {
      yield* this.#reconnecting();
    } catch (error) {
      this.#refuse(error);
      if (error !== CLOSED) throw error;
    } finally {
      this.#outer?.removeEventListener("abort", stop);
    }
  }

  async *#reconnecting() {
    const { signal } = this.#closing;
    for (;;) {
      if (signal.aborted) throw signal.reason;
      const { endpoint } = this.#db;
      const begun = Date.now();
      try {
        yield* this.#connection(endpoint);
        this.#onState({ state: "disconnected", endpoint, error: null });
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        if (!mayReconnect(error, this.#hasBegun)) throw error;
        this.#onState({ state: "disconnected", endpoint, error });
      }
      if (Date.now() - begun >= STREAM_STEADY_MS) this.#failures = 0;
      this.#failures += 1;
      this.#db.moveOnFrom(endpoint);
      // From one to the next without a pause: that one is there when this one stops.
      const round = this.#failures / this.#db.endpoints.length;
      if (Number.isInteger(round)) await pause(pauseAfter(round), signal);
    }
  }

  /** The events of one connection. */
  async *#connection(endpoint) {
    const why = new TimeoutError(`nothing from ${endpoint} in time`, { code: "timeout", endpoint });
    const limit = deadline(this.#closing.signal, STREAM_OPEN_MS, why);
    let reader;
    try {
      const begins = this.#beginning();
      const { body } = await this.#subscribe(endpoint, begins, limit.signal);
      reader = body.getReader();
      limit.restart(STREAM_IDLE_MS);
      this.#begin(endpoint, begins);
      if (begins.isResync) yield { type: "resync", cursor: null };
      for await (const block of blocks(reader, () => limit.restart(STREAM_IDLE_MS))) {
        // What has been read already is not told any more.
        if (limit.signal.aborted) throw limit.signal.reason;
        const event = this.#take(block, endpoint);
        if (event === END) return;
        if (event !== null) yield event;
      }
    } catch (error) {
      if (limit.signal.aborted) throw limit.signal.reason;
      throw error instanceof DynaRustError || isOurs(error) ? error : broken(error, endpoint);
    } finally {
      limit.done();
      // Of a connection that has failed there is nothing left to end.
      await reader?.cancel().catch(() => {});
    }
  }

  /** Where the next connection begins. Without a position nobody knows what was missed: then with all values. */
  #beginning() {
    if (this.cursor !== null) return { since: this.cursor, isResync: false };
    const snapshot = this.#wantsSnapshot || this.#hasBegun;
    return { snapshot, isResync: this.#hasBegun && (this.#hasValues || !this.#wantsSnapshot) };
  }

  async #subscribe(endpoint, { since, snapshot }, signal) {
    const url = endpoint + this.#path + query({ ...this.#chosen, since, snapshot });
    const headers = { ...await this.#db.headers(), Accept: "text/event-stream" };
    const response = await this.#db.fetch(url, { headers, signal });
    if (response.status === 200 && response.headers.get("Content-Type")?.startsWith("text/event-stream")) return response;
    const answer = parsed(await response.text(), response, endpoint) ?? {};
    throw errorOf(response.status, answer, endpoint);
  }

  #begin(endpoint, { snapshot, isResync }) {
    this.#hasBegun = true;
    this.#isInSnapshot = Boolean(snapshot);
    if (isResync) this.#hasValues = false;
    this.#accept();
    this.#onState({ state: "connected", endpoint, error: null });
  }

  /** The event of a block; `null` if it has none for the reader, `END` if the node ends the stream. */
  #take({ id, data }, endpoint) {
    const event = data === undefined ? {} : JSON.parse(data);
    if (event.event === "shutdown") return END;
    if (event.event === "failed") throw new UnavailableError(event.detail, { code: "failed", endpoint, body: event });
    if (event.event === "resync") {
      this.#isInSnapshot = true;
      this.#hasValues = false;
      this.cursor = null;
    }
    if (event.event === "sync") this.#isInSnapshot = false;
    if (!this.#isInSnapshot) {
      this.cursor = id ?? this.cursor;
      // A position alone proves nothing: a stream that breaks off right after it would be begun again without a pause.
      if (event.event !== undefined) this.#failures = 0;
    }
    const type = TYPES[event.event];
    if (type === undefined) return null;
    if (type === "updated") this.#hasValues = true;
    const { event: _, expires_at: expiresAt, ...fields } = event;
    if (type === "updated") fields.expiresAt = expiresAt ?? null;
    return { type, ...fields, cursor: this.cursor };
  }
}

const END = Symbol("end");

/** Whether to go on at another endpoint, or later. What is wrong with the request is wrong everywhere. */
function mayReconnect(error, hasBegun) {
  if (!(error instanceof DynaRustError)) return false;
  const { status } = error;
  // Where many move to another node at once, its limits may be reached for a moment.
  return status === 0 || status >= 500 || status === 408 || (status === 429 && hasBegun);
}

/** The blocks of an event stream: `{ id, data }`, as far as they have them. */
async function* blocks(reader, onBytes) {
  const decoder = new TextDecoder();
  let rest = "";
  let searched = 0;
  let block = {};
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onBytes();
    rest += decoder.decode(value, { stream: true });
    let begin = 0;
    for (let end; (end = rest.indexOf("\n", Math.max(begin, searched))) !== -1; begin = end + 1) {
      const line = rest.slice(begin, end);
      if (line === "") {
        if (block.id !== undefined || block.data !== undefined) yield block;
        block = {};
      } else if (line.startsWith("id: ")) {
        block.id = line.slice(4);
      } else if (line.startsWith("data: ")) {
        block.data = line.slice(6);
      }
    }
    rest = rest.slice(begin);
    searched = rest.length;
    if (rest.length > EVENT_CHARACTERS_MAX) throw new ServerError("an event without an end", { code: "bad-answer" });
  }
}
