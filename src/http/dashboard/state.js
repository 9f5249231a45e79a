// What the page knows of the cluster, and who is told when that changes.

import { useEffect, useState } from "./preact.js";
import { Connection } from "./connection.js";

const STATUS_EVERY_MS = 1000;
/** Fifteen minutes of points. */
const POINTS_MAX = 450;

export const connection = new Connection();

const READ_ONLY = "Read-only: this page changes nothing until you make it writable, at the top.";

class State extends EventTarget {
  /** The latest status of the cluster. */
  status = null;
  /** Series by node: `{ address, fields, points }`. */
  series = new Map();
  /** Whether the page changes nothing, because its reader wants that. */
  readOnly = false;
  #asking = false;

  start() {
    connection.addEventListener("state", () => {
      if (connection.state === "open") {
        this.#ask();
        this.#askSeries();
      }
      this.changed();
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) {
        this.#ask();
        this.#askSeries();
      }
    });
    setInterval(() => !document.hidden && this.#ask(), STATUS_EVERY_MS);
    connection.start();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** All nodes, each with its answer or its error. */
  get nodes() {
    return this.status?.nodes ?? [];
  }

  /** What the client may do. */
  get client() {
    return this.status?.client ?? {};
  }

  /** Why the page may not write to a table; `null` if it may. Without a table: to any. With a key, or a prefix: to what begins so. Whether a table may be made that
   * is not there yet, only the node knows. */
  whyNoWrites(table, key) {
    const { writes_all, writes_some, writable = [], prefixes = [] } = this.client;
    if (this.readOnly) return READ_ONLY;
    if (writes_all) return null;
    const isNew = table === undefined || !this.tables.some(({ name }) => name === table);
    if (writable.includes(table) || (isNew && writes_some)) {
      const isInside = key === undefined || prefixes.length === 0 || prefixes.some(prefix => key.startsWith(prefix));
      return isInside ? null : `Your token may only write keys that begin with ${prefixes.join(" or ")}.`;
    }
    return table === undefined ? "Your token has no right to write." : `Your token has no right to write to ${table}.`;
  }

  /** Whether it may write to a table. */
  mayWrite(table) {
    return this.whyNoWrites(table) === null;
  }

  /** Why the page may not do what operators do; `null` if it may. */
  whyNoAdmin() {
    const { admin, signed_in } = this.client;
    if (this.readOnly) return READ_ONLY;
    if (admin && signed_in) return null;
    return signed_in ? "Your token has no admin right." : "Sign in with the text of dynarust.admin-token to start a comparison.";
  }

  /** All tables, by name, with what each node says of them. */
  get tables() {
    const tables = new Map();
    for (const { node, answer } of this.nodes) {
      for (const table of answer?.tables ?? []) {
        if (!tables.has(table.name)) tables.set(table.name, { name: table.name, mode: table.mode, of: new Map() });
        tables.get(table.name).of.set(node, table);
      }
    }
    for (const table of tables.values()) {
      const most = field => Math.max(...[...table.of.values()].map(one => one[field] ?? 0));
      Object.assign(table, { keys: most("keys"), bytes: most("bytes") });
    }
    return [...tables.values()].sort((one, other) => (one.name < other.name ? -1 : 1));
  }

  async #ask() {
    if (this.#asking || connection.state !== "open") return;
    this.#asking = true;
    try {
      this.status = await connection.request({ op: "report", report: "status" });
      this.failure = null;
      const members = this.nodes.filter(({ node }) => node !== this.own()).map(({ address }) => address);
      connection.knows([...members, ...this.nodes.map(({ address }) => address).filter(address => !members.includes(address))]);
      for (const { node, answer } of this.nodes) this.#add(node, answer?.point);
    } catch (problem) {
      this.failure = problem.status ? problem : this.failure;
    } finally {
      this.#asking = false;
      this.changed();
    }
  }

  /** The node of the page. */
  own() {
    return this.status?.node;
  }

  async #askSeries() {
    try {
      const { nodes } = await connection.request({ op: "report", report: "series" });
      this.series.clear();
      for (const { node, address, answer } of nodes) {
        if (answer) this.series.set(node, { address, fields: answer.fields, points: answer.points });
      }
      this.changed();
    } catch {
      // The status says what is wrong.
    }
  }

  #add(node, point) {
    const series = this.series.get(node);
    if (!point) return;
    if (!series) {
      this.#askSeries();
      return;
    }
    const last = series.points[series.points.length - 1];
    if (last && last[0] >= point[0]) return;
    series.points.push(point);
    if (series.points.length > POINTS_MAX) series.points.shift();
  }
}

export const state = new State();

/** Renders the component again whenever the state changes. */
export function useAppState() {
  const [, render] = useState(0);
  useEffect(() => {
    const changed = () => render(number => number + 1);
    state.addEventListener("change", changed);
    return () => state.removeEventListener("change", changed);
  }, []);
  return state;
}
