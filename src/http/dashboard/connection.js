// One WebSocket to one node, for everything that the page shows. It comes back by itself, and moves to another member of the cluster when
// its node is gone. Requests over HTTP go to the same node.

const TOKEN = "dynarust.token";
const MEMBERS = "dynarust.members";
const ANSWER_TIMEOUT_MS = 15_000;
const CONNECT_TIMEOUT_MS = 4_000;
const VALUE = ',"value":';
const VERSION = ',"version":"';
const PAUSES_MS = [100, 300, 600, 1000, 2000];
const PAUSE_MAX_MS = 3000;

/** What a node answered that is no success. */
class Problem extends Error {
  constructor(body) {
    super(body.detail || body.title || `the node answered ${body.status}`);
    this.status = body.status ?? 0;
    this.code = body.error;
    this.body = body;
  }
}

function remembered(key) {
  try {
    return sessionStorage.getItem(key);
  } catch {
    return null;
  }
}

function remember(key, value) {
  try {
    value == null ? sessionStorage.removeItem(key) : sessionStorage.setItem(key, value);
  } catch {
    // Without storage the token lasts as long as the page.
  }
}

/** A message with the text of its value. The node writes the value right before the version, and before it only what has no value in it. */
function parsed(data) {
  const message = JSON.parse(data);
  if (message.value === undefined) return message;
  const begin = data.indexOf(VALUE) + VALUE.length;
  message.text = data.slice(begin, data.lastIndexOf(VERSION));
  delete message.value;
  return message;
}

export class Connection extends EventTarget {
  /** "connecting", "open", "lost", "unauthorized" */
  state = "connecting";
  /** The origin of the node that it is connected to. */
  base = location.origin;
  token = remembered(TOKEN);
  #socket = null;
  #number = 0;
  #waiting = new Map();
  #subscriptions = new Map();
  #attempt = 0;
  #members = JSON.parse(remembered(MEMBERS) || "[]");
  #timer = null;

  start() {
    this.#connect();
    addEventListener("online", () => this.retry());
  }

  /** The addresses of members that it may move to. */
  knows(addresses) {
    this.#members = addresses;
    remember(MEMBERS, JSON.stringify(addresses));
  }

  /** Signs in with a token, or out without one. */
  signIn(token) {
    this.token = token || null;
    remember(TOKEN, this.token);
    this.#attempt = 0;
    this.#close();
    this.#connect();
  }

  retry() {
    if (this.state === "open") return;
    this.#attempt = 0;
    this.#connect();
  }

  /** Sends a request; the promise has its result. `value`: the text of its value, which is sent as it is. A result with a value has its text in
   * `text` instead, because numbers of JSON are no numbers of JavaScript. */
  request(message, value) {
    return new Promise((resolve, reject) => {
      if (this.state !== "open") return reject(new Problem({ detail: "there is no connection to a node" }));
      const rid = ++this.#number;
      const timer = setTimeout(() => {
        this.#waiting.delete(rid);
        reject(new Problem({ detail: "the node did not answer in time" }));
      }, ANSWER_TIMEOUT_MS);
      this.#waiting.set(rid, { resolve, reject, timer });
      const frame = JSON.stringify({ ...message, rid });
      this.#socket.send(value === undefined ? frame : `${frame.slice(0, -1)},"value":${value}}`);
    });
  }

  /** Follows a topic until the returned function is called. `hear` gets each event; it goes on after the connection was lost. */
  subscribe(topic, hear) {
    const id = `s${++this.#number}`;
    this.#subscriptions.set(id, { topic, hear, cursor: null });
    if (this.state === "open") this.#follow(id);
    return () => {
      this.#subscriptions.delete(id);
      if (this.state === "open") this.#socket.send(JSON.stringify({ op: "unsub", id }));
    };
  }

  /** A request over HTTP to the node of this connection. A failure is a `Problem`. */
  async fetch(path, options = {}) {
    const headers = { ...options.headers };
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    const response = await fetch(this.base + path, { ...options, headers });
    if (response.ok) return response;
    const body = await response.json().catch(() => ({}));
    throw new Problem({ status: response.status, ...body });
  }

  #set(state, detail) {
    this.state = state;
    this.detail = detail;
    this.dispatchEvent(new Event("state"));
  }

  #close() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new Problem({ detail: "the connection was lost: whether the request took effect is unknown" }));
    }
    this.#waiting.clear();
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#close();
    const url = new URL("/_/ws", this.base);
    url.protocol = url.protocol.replace("http", "ws");
    if (this.token) url.searchParams.set("access_token", this.token);
    const socket = new WebSocket(url);
    this.#socket = socket;
    this.#set(this.state === "open" ? "lost" : this.state);
    const timer = setTimeout(() => socket.close(), CONNECT_TIMEOUT_MS);
    socket.onopen = () => {
      clearTimeout(timer);
      if (this.#socket !== socket) return;
      this.#attempt = 0;
      for (const id of this.#subscriptions.keys()) this.#follow(id);
      this.#set("open");
    };
    socket.onmessage = ({ data }) => this.#socket === socket && this.#receive(parsed(data));
    socket.onclose = () => {
      clearTimeout(timer);
      if (this.#socket === socket) this.#lost();
    };
  }

  async #lost() {
    this.#close();
    if (this.state !== "connecting") this.#set("lost");
    const attempt = this.#attempt++;
    // A page is not told why a handshake failed.
    const refusal = await this.#refusal();
    if (this.#socket || this.state === "open") return;
    if (refusal) return this.#set("unauthorized", refusal);
    if (attempt > 0) this.#move();
    this.#timer = setTimeout(() => this.#connect(), PAUSES_MS[attempt] ?? PAUSE_MAX_MS);
  }

  /** Why the node wants no requests of this client, if it answers. */
  async #refusal() {
    try {
      await this.fetch("/membership", { signal: AbortSignal.timeout(2000) });
    } catch (problem) {
      if (problem.status === 401 || problem.status === 403) return problem.message;
    }
    return null;
  }

  /** On to the next node. */
  #move() {
    const own = location.origin;
    const bases = [own, ...this.#members.map(address => `${location.protocol}//${address}`)];
    const known = [...new Set(bases)];
    this.base = known[(known.indexOf(this.base) + 1) % known.length];
  }

  #follow(id) {
    const subscription = this.#subscriptions.get(id);
    subscription.isSnapshot = false;
    const { topic, cursor } = subscription;
    this.#socket.send(JSON.stringify({ op: "sub", id, ...topic, ...(cursor && { since: cursor }) }));
  }

  #receive(message) {
    if (message.rid !== undefined) {
      const waiting = this.#waiting.get(message.rid);
      if (!waiting) return;
      this.#waiting.delete(message.rid);
      clearTimeout(waiting.timer);
      message.status === 200 ? waiting.resolve(message) : waiting.reject(new Problem(message));
    } else if (message.sub !== undefined) {
      const subscription = this.#subscriptions.get(message.sub);
      if (!subscription) return;
      if (message.cursor) subscription.cursor = message.cursor;
      // What follows a resync, up to its sync, is no news: all current values.
      if (message.event === "sync") subscription.isSnapshot = false;
      if (!subscription.isSnapshot) subscription.hear(message);
      if (message.event === "resync") subscription.isSnapshot = true;
    } else if (message.event === "position") {
      for (const subscription of this.#subscriptions.values()) subscription.cursor = message.cursor;
    }
  }
}
