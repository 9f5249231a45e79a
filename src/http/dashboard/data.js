// Tables, their keys, and the editor. A list of keys is read a page at a time, and the values only of the rows in sight.

import { html, useEffect, useMemo, useRef, useState } from "./preact.js";
import { Editor } from "./editor.js";
import { bytes, count, countdown, plural, preview, shellWord, time } from "./format.js";
import { connection, state, useAppState } from "./state.js";
import { Dialog, Empty, Failure, VirtualList, download, useNow } from "./widgets.js";

const PAGE = 2000;
const ROW_HEIGHT = 36;
/** Values that are remembered, and changes of keys: beyond that the oldest go. */
const SEEN_MAX = 2000;
const HISTORY_KEYS_MAX = 200;
const HISTORY_MAX = 30;
const HISTORY_TEXT_MAX = 4096;
const READS_MAX = 8;
/** Listing or sorting again after changes: not more often than this, for each page that is listed. */
const REFRESH_MS = 1000;
/** Keys that are sorted otherwise than by key: ten pages of a few bytes a key. The node has no such order. */
const SORTED_MAX = 10 * PAGE;
/** Tables whose histories are kept. */
const LISTINGS_MAX = 10;

/** Orders of keys, the first of equal ones by key. Without `compare` the node sorts. */
const ORDERS = {
  key: { title: "Key ↑" },
  last: { title: "Key ↓", reverse: true },
  written: { title: "Written ↓", by: "time written", compare: ([, one], [, other]) => other.timestamp - one.timestamp },
  expiry: { title: "Expiry ↑", by: "expiry", compare: ([, one], [, other]) => (one.expires_at ?? Infinity) - (other.expires_at ?? Infinity) || 0 },
  size: { title: "Size ↓", by: "length of the value", compare: ([, one], [, other]) => other.bytes - one.bytes },
};

/** Of a change what the orders need, as the node lists it. */
const rowOf = ({ timestamp, expires_at, text }) => ({ timestamp, expires_at, bytes: new TextEncoder().encode(text).length });

/** What is known of the keys of one table: those listed so far, and what was seen of their values. Sorted otherwise than by key, they are the first
 * `SORTED_MAX`, with what the node says of each; changes renew that, as listing them means that the node reads all their values. */
class Listing extends EventTarget {
  keys = [];
  total = null;
  isDone = false;
  problem = null;
  seen = new Map();
  history = new Map();
  /** The same as `keys`, to look them up. */
  #listed = new Set();
  /** When changes were missed, if they were since the table was opened. */
  missedAt = null;
  /** Where the order is not by key: what it is by, of each key. */
  #rows = null;
  /** The changes that came while these are listed, which may or may not have them. */
  #meanwhile = null;
  #cursor = null;
  #reading = null;
  #range = [0, 0];
  #wanted = new Set();
  #inFlight = 0;
  #generation = 0;
  #wasOpen = false;
  #stops = [];
  #timer = null;
  #frame = null;

  /** `incompleteAt`: up to when changes of any key may be missing in its history; `null` if none are. */
  constructor(table, incompleteAt) {
    super();
    this.table = table;
    this.incompleteAt = incompleteAt;
    this.query = { prefix: "", order: "key" };
  }

  open() {
    // What was written while nobody listened.
    this.seen.clear();
    if (this.#wasOpen) this.#missed();
    this.#wasOpen = true;
    this.missedAt = null;
    // A token that is limited to prefixes may list and follow nothing else.
    const { prefixes = [] } = state.client;
    const isInside = prefixes.length === 0 || prefixes.some(prefix => this.query.prefix.startsWith(prefix));
    if (!isInside) this.query = { ...this.query, prefix: prefixes[0] };
    const topics = prefixes.length === 0 ? [{ table: this.table }] : prefixes.map(prefix => ({ table: this.table, prefix }));
    this.#stops = topics.map(topic => connection.subscribe(topic, event => this.#hear(event)));
    connection.addEventListener("state", this.#reconnected);
    this.list();
  }

  close() {
    for (const stop of this.#stops) stop();
    connection.removeEventListener("state", this.#reconnected);
    clearTimeout(this.#timer);
    cancelAnimationFrame(this.#frame);
    this.#timer = null;
    this.#frame = null;
    this.#generation += 1;
    this.#reading = null;
  }

  /** What failed while there was no connection is tried again. */
  #reconnected = () => {
    if (connection.state !== "open") return;
    if (this.problem) this.list();
    this.want(...this.#range);
  };

  /** Lists from the start, with this query. What is shown stays until the new keys are there. */
  async list(query = this.query) {
    const isAsked = query === this.query;
    this.query = query;
    const generation = ++this.#generation;
    this.#reading = null;
    // The keys of another list would follow after these.
    this.#cursor = null;
    clearTimeout(this.#timer);
    this.#timer = null;
    const order = ORDERS[query.order];
    this.#meanwhile = order.compare ? [] : null;
    const wanted = order.compare ? SORTED_MAX : Math.max(PAGE, isAsked ? this.keys.length : 0);
    try {
      let keys = [];
      let cursor = null;
      do {
        const page = await this.#page(cursor);
        if (generation !== this.#generation) return;
        keys = keys.concat(page.keys);
        cursor = page.cursor;
      } while (cursor && keys.length < wanted);
      Object.assign(this, { isDone: !cursor, problem: null });
      this.#cursor = cursor;
      if (order.compare) {
        this.#rows = new Map(keys);
        this.#meanwhile.forEach(event => this.#renew(event));
        this.#meanwhile = null;
        this.#sort();
      } else {
        this.#rows = null;
        this.keys = keys;
        this.#listed = new Set(keys);
      }
      // Other keys may be in sight, or values not known any more.
      this.want(...this.#range);
      this.#changed();
      await this.#count();
    } catch (problem) {
      if (generation === this.#generation) Object.assign(this, { problem });
    }
    if (generation === this.#generation) this.#meanwhile = null;
    this.#changed();
  }

  async #count() {
    const generation = this.#generation;
    const counted = await connection.fetch(`/${this.table}/count?${this.#parameters({})}`).then(response => response.json());
    if (generation === this.#generation) this.total = counted.count;
  }

  /** Sorts what is known of the keys, which are in almost this order already. */
  #sort() {
    const { compare } = ORDERS[this.query.order];
    if (!compare || !this.#rows) return;
    const rows = [...this.#rows].sort((one, other) => compare(one, other) || (one[0] < other[0] ? -1 : 1));
    this.#rows = new Map(rows);
    this.keys = rows.map(([key]) => key);
  }

  dismiss() {
    this.problem = null;
    this.#changed();
  }

  /** Lists on, up to the row of this index. After a failure it goes on when somebody scrolls, or the connection is back. */
  async reach(index) {
    if (this.isDone || this.#reading || index < this.keys.length - PAGE / 4 || !this.#cursor || ORDERS[this.query.order].compare) return;
    const generation = this.#generation;
    this.#reading = this.#page(this.#cursor);
    try {
      const page = await this.#reading;
      if (generation !== this.#generation) return;
      page.keys.forEach(key => this.#listed.add(key));
      Object.assign(this, { keys: this.keys.concat(page.keys), isDone: !page.cursor, problem: null });
      this.#cursor = page.cursor;
      this.#reading = null;
      this.reach(index);
    } catch (problem) {
      if (generation !== this.#generation) return;
      this.problem = problem;
      this.#reading = null;
    }
    this.#changed();
  }

  #parameters(more) {
    const { prefix } = this.query;
    return new URLSearchParams({ ...(prefix && { prefix }), ...more });
  }

  /** A page of keys; with what the node says of each where they are sorted by it. */
  async #page(cursor) {
    const { compare, reverse } = ORDERS[this.query.order];
    const parameters = this.#parameters({ limit: PAGE, ...(reverse && { reverse: true }), ...(cursor && { cursor }), ...(compare && { meta: true, values: false }) });
    const response = await connection.fetch(`/${this.table}/${compare ? "store" : "keys"}?${parameters}`);
    const listed = await response.json();
    return { keys: compare ? Object.entries(listed) : listed, cursor: response.headers.get("dynarust-next-cursor") };
  }

  /** Reads the values of the rows in sight that are not known yet. */
  want(first, last) {
    this.#range = [first, last];
    this.#wanted = new Set(this.keys.slice(first, last).filter(key => !this.seen.has(key)));
    this.#readWanted();
  }

  #readWanted() {
    for (const key of this.#wanted) {
      if (this.#inFlight >= READS_MAX) return;
      this.#wanted.delete(key);
      this.#inFlight += 1;
      const answered = connection.request({ op: "get", table: this.table, key, read: "stale" }).then(
        entry => this.see(key, entry),
        problem => problem.status === 404 && this.see(key, null),
      );
      answered.finally(() => {
        this.#inFlight -= 1;
        this.#readWanted();
      });
    }
  }

  /** Remembers the start of a value. */
  see(key, entry) {
    this.seen.delete(key);
    this.seen.set(key, entry && { text: preview(entry.text), timestamp: entry.timestamp, expiresAt: entry.expires_at });
    if (this.seen.size > SEEN_MAX) this.seen.delete(this.seen.keys().next().value);
    this.#changed();
  }

  #hear(event) {
    if (event.event === "resync") {
      this.seen.clear();
      this.#missed();
      this.missedAt = Date.now();
      this.dispatchEvent(new Event("missed"));
      return this.#listSoon();
    }
    if (event.event === "error" || event.event === "failed") {
      this.problem = new Error(event.detail ?? "the table is not followed any more");
      return this.#changed();
    }
    if (event.event !== "Updated" && event.event !== "Deleted") return;
    const { key } = event;
    this.#remember(event);
    if (event.event === "Deleted") this.seen.delete(key);
    else if (this.seen.has(key)) this.see(key, event);
    if (ORDERS[this.query.order].compare) this.#follow(event);
    else if (key.startsWith(this.query.prefix) && (event.event === "Deleted" || !this.#listed.has(key))) this.#listSoon();
    this.dispatchEvent(new CustomEvent("key", { detail: event }));
    this.#changed();
  }

  /** A change where the order is not by key. */
  #follow(event) {
    if (this.#meanwhile) {
      if (this.#meanwhile.length < SORTED_MAX) this.#meanwhile.push(event);
      else this.#listSoon();
      return;
    }
    if (!this.#rows) return;
    this.#renew(event);
    this.#soon(this.isDone ? 1 : SORTED_MAX / PAGE, async () => {
      if (this.#meanwhile) return;
      this.#sort();
      this.want(...this.#range);
      if (this.isDone) this.total = this.keys.length;
      else await this.#count();
    });
  }

  /** Where not all keys are listed, others than those that are stay out. */
  #renew(event) {
    const { key } = event;
    if (!key.startsWith(this.query.prefix)) return;
    if (event.event === "Deleted") this.#rows.delete(key);
    else if (this.#rows.has(key) || (this.isDone && this.#rows.size < SORTED_MAX)) this.#rows.set(key, rowOf(event));
    else this.isDone = false;
  }

  /** Each history has a gap here, and those that begin later. */
  #missed() {
    this.incompleteAt = Date.now();
    for (const entries of this.history.values()) {
      if (!entries[0].isGap) entries.unshift({ isGap: true, timestamp: Date.now() });
    }
  }

  #remember(event) {
    const { key, text, timestamp = Date.now() } = event;
    const isWhole = text !== undefined && text.length <= HISTORY_TEXT_MAX;
    const before = this.history.get(key) ?? (this.incompleteAt === null ? [] : [{ isGap: true, timestamp: this.incompleteAt }]);
    const entry = { timestamp, text: isWhole ? text : text && preview(text), isWhole };
    this.history.delete(key);
    this.history.set(key, [entry, ...before].slice(0, HISTORY_MAX));
    if (this.history.size > HISTORY_KEYS_MAX) {
      this.history.delete(this.history.keys().next().value);
      this.incompleteAt = Date.now();
    }
  }

  #listSoon() {
    // What is listed again is no more than the reader has asked for, and never very much.
    this.#soon(Math.ceil(this.keys.length / PAGE), () => this.keys.length <= SORTED_MAX && this.list());
  }

  /** Does it after a while, the longer the more pages there are, and once, however often it is asked for. */
  #soon(pages, act) {
    this.#timer ??= setTimeout(async () => {
      this.#timer = null;
      try {
        await act();
      } catch {
        // The number of keys stays what it was, until the next change.
      }
      this.#changed();
    }, REFRESH_MS * Math.max(1, pages));
  }

  /** At most once a frame, however much comes in. */
  #changed() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.dispatchEvent(new Event("change"));
    });
  }
}

/** Kept while the tab is open, so that history is there on coming back. Those that were opened last are at the end. */
const listings = new Map();
/** When the oldest was dropped. */
let droppedAt = null;

function listingOf(table) {
  const listing = listings.get(table) ?? new Listing(table, droppedAt);
  listings.delete(table);
  listings.set(table, listing);
  if (listings.size > LISTINGS_MAX) {
    listings.delete(listings.keys().next().value);
    droppedAt = Date.now();
  }
  return listing;
}

function useListing(table) {
  const [, render] = useState(0);
  const listing = useMemo(() => table && listingOf(table), [table]);
  useEffect(() => {
    if (!listing) return undefined;
    const changed = () => render(number => number + 1);
    listing.addEventListener("change", changed);
    listing.open();
    return () => {
      listing.removeEventListener("change", changed);
      listing.close();
    };
  }, [listing]);
  return listing;
}

function Tables({ tables, chosen, onNew }) {
  return html`<nav class="tables" aria-label="Tables">
    <div class="bar"><h2>Tables</h2><button type="button" class="small push" disabled=${!state.mayWrite()} title=${state.whyNoWrites() ?? ""} onClick=${onNew}>New</button></div>
    <ul>${tables.map(table => html`<li key=${table.name}><a href=${`#/data/${encodeURIComponent(table.name)}`} aria-current=${table.name === chosen ? "page" : undefined}>
      <span class="mono">${table.name}</span>${table.mode === "strong" && html`<span class="tag">strong</span>`}<span class="number" title="Keys, and the bytes of keys and values as a node stores them, compressed">${count(table.keys)} <small>${bytes(table.bytes)}</small></span></a></li>`)}</ul>
  </nav>`;
}

function Row({ table, name, seen, isChosen, now }) {
  return html`<a class=${"row " + (isChosen ? "chosen" : "")} href=${`#/data/${encodeURIComponent(table)}/${encodeURIComponent(name)}`}>
    <span class="mono key">${name}</span><span class="mono value">${seen === undefined ? "" : seen?.text ?? ""}</span>
    <span class="when">${seen?.expiresAt ? html`<span class="tag">${countdown(seen.expiresAt - now)}</span>` : seen ? time(seen.timestamp) : ""}</span></a>`;
}

function DeleteMany({ listing, onClose }) {
  const { prefix } = listing.query;
  const [counted, setCounted] = useState(null);
  const [confirmed, setConfirmed] = useState("");
  const [problem, setProblem] = useState(null);
  useEffect(() => {
    connection.fetch(`/${listing.table}/count?${new URLSearchParams(prefix ? { prefix } : {})}`).then(response => response.json()).then(body => setCounted(body.count), setProblem);
  }, []);
  const remove = async () => {
    try {
      await connection.request({ op: "delete_all", table: listing.table, ...(prefix ? { prefix } : { confirm: listing.table }) });
      listing.list();
      onClose();
    } catch (failure) {
      setProblem(failure);
    }
  };
  return html`<${Dialog} title=${prefix ? "Delete by prefix" : "Delete all keys"} onClose=${onClose}>
    <div class="stack"><p>${counted == null ? "Counting" : html`This deletes <strong>${plural(counted, "key")}</strong> of <code>${listing.table}</code>${prefix ? html` that begin with <code>${prefix}</code>` : ""}, on all nodes. It cannot be undone.`}</p>
    <label>Type the table's name to confirm <input value=${confirmed} onInput=${event => setConfirmed(event.target.value)} autocomplete="off" spellcheck=${false} /></label>
    <${Failure} problem=${problem} />
    <div class="bar end"><button type="button" onClick=${onClose}>Cancel</button>
      <button type="button" class="danger" disabled=${confirmed !== listing.table || counted == null} onClick=${remove}>Delete ${counted == null ? "" : plural(counted, "key")}</button></div></div>
  </${Dialog}>`;
}

function NewKey({ table, onClose }) {
  const [name, setName] = useState(table ?? "");
  const [key, setKey] = useState("");
  const go = event => {
    event.preventDefault();
    onClose();
    location.hash = `#/data/${encodeURIComponent(name)}/${encodeURIComponent(key)}`;
  };
  return html`<${Dialog} title=${table ? "New key" : "New table"} onClose=${onClose}><form class="stack" onSubmit=${go}>
    ${!table && html`<label>Table <input class="mono" value=${name} onInput=${event => setName(event.target.value)} required pattern="[A-Za-z0-9][A-Za-z0-9_.\\-]*" maxlength="64" /></label>
      <p class="faint">A table exists as soon as it has a key.</p>`}
    <label>Key <input class="mono" value=${key} onInput=${event => setKey(event.target.value)} required maxlength="1024" autofocus=${Boolean(table)} /></label>
    <div class="bar end"><button type="submit" class="primary">Edit its value</button></div></form></${Dialog}>`;
}

/** Imports the lines of a file into a table. */
async function importFile(file, table) {
  const response = await connection.fetch(`/_/import?table=${table}&mode=new`, { method: "POST", body: file });
  return response.json();
}

async function exportTable(listing) {
  const { prefix } = listing.query;
  const parameters = new URLSearchParams({ table: listing.table, ...(prefix && { prefix }) });
  const response = await connection.fetch(`/_/export?${parameters}`);
  download(await response.blob(), `${listing.table}.ndjson`);
}

function Toolbar({ listing, mayWrite, whyNoDeletes, onDelete, onNew, onImport, onProblem }) {
  const timer = useRef();
  const file = useRef();
  // What is typed, which the list follows after a moment.
  const [text, setText] = useState(listing.query.prefix);
  useEffect(() => () => clearTimeout(timer.current), []);
  const search = event => {
    clearTimeout(timer.current);
    const prefix = event.target.value;
    setText(prefix);
    timer.current = setTimeout(() => listing.list({ ...listing.query, prefix }), 200);
  };
  const why = state.whyNoWrites(listing.table) ?? "";
  return html`<div class="bar toolbar">
    <label class="grow"><span class="hidden">Keys that begin with</span><input type="search" data-search placeholder="Keys that begin with …   ( / )" value=${text} onInput=${search} spellcheck=${false} /></label>
    <label><span class="hidden">Order</span><select value=${listing.query.order} onChange=${event => listing.list({ ...listing.query, order: event.target.value })}>${Object.entries(ORDERS).map(([name, { title }]) => html`<option key=${name} value=${name}>${title}</option>`)}</select></label>
    ${ORDERS[listing.query.order].by && html`<button type="button" onClick=${() => listing.list()} title="Read all keys again">Refresh</button>`}
    <button type="button" class="primary" disabled=${!mayWrite} title=${why} onClick=${onNew}>New key</button>
    ${mayWrite && html`<button type="button" onClick=${() => file.current.click()} title="NDJSON, a row a line; or drop a file on the list">Import</button>
      <input ref=${file} type="file" hidden aria-label="File to import" onChange=${event => { onImport(event.target.files[0]); event.target.value = ""; }} />`}
    <button type="button" onClick=${() => exportTable(listing).catch(onProblem)}>Export</button>
    ${mayWrite && html`<button type="button" class="danger" disabled=${Boolean(whyNoDeletes)} title=${whyNoDeletes ?? ""} onClick=${onDelete}>${listing.query.prefix ? "Delete these" : "Delete all"}</button>`}
  </div>`;
}

function Keys({ listing, chosen, dialog, setDialog }) {
  const now = useNow();
  const [problem, setProblem] = useState(null);
  const [isOver, setOver] = useState(false);
  const [done, setDone] = useState(null);
  const why = state.whyNoWrites(listing.table);
  const mayWrite = why === null;
  // Of a token that is limited to prefixes.
  const whyNoDeletes = state.whyNoWrites(listing.table, listing.query.prefix);
  const take = async file => {
    setOver(false);
    if (!file) return;
    if (why) {
      setProblem(new Error(why));
      return;
    }
    setDone(`Importing ${file.name}`);
    try {
      const result = await importFile(file, listing.table);
      setDone(`Imported ${file.name}: ${Object.entries(result).map(([name, value]) => `${name} ${value}`).join(", ")}`);
      listing.list();
    } catch (failure) {
      setDone(null);
      setProblem(failure);
    }
  };
  const near = (first, last) => {
    listing.want(first, last);
    listing.reach(last);
  };
  const drop = event => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  };
  const { by } = ORDERS[listing.query.order];
  const sorted = by && !listing.isDone ? `; by ${by}, of the first ${count(listing.keys.length)} keys by name` : "";
  const missed = listing.missedAt && `Some changes were missed at ${time(listing.missedAt)}, and all keys were listed again.`;
  const isEmpty = listing.keys.length === 0 && listing.isDone;
  return html`<section class=${"keys " + (isOver ? "over" : "")} aria-label=${`Keys of ${listing.table}`} onDragOver=${event => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${drop}>
    <${Toolbar} listing=${listing} mayWrite=${mayWrite} whyNoDeletes=${whyNoDeletes} onDelete=${() => setDialog("delete")} onNew=${() => setDialog("key")} onImport=${take} onProblem=${setProblem} />
    <${Failure} problem=${problem} onClose=${() => setProblem(null)} />
    <${Failure} problem=${listing.problem} onRetry=${() => listing.list()} onClose=${() => listing.dismiss()} />
    <a class="back small" href="#/data">All tables</a>
    <p class="faint small" role="status">${done ?? (listing.total == null ? "" : `${plural(listing.total, "key")}${listing.query.prefix ? ` ${listing.total === 1 ? "begins" : "begin"} with ${listing.query.prefix}` : ""}${sorted}`)}${missed && html` <span class="missed">${missed}</span>`}</p>
    ${whyNoDeletes && html`<p class="faint small">${whyNoDeletes}</p>`}
    ${isEmpty
      ? html`<${Empty} title=${listing.query.prefix ? "No key begins like that" : "This table has no keys"}>${mayWrite && !listing.query.prefix ? "Make one with New key, or drop a file of NDJSON here." : "Try a shorter prefix."}</${Empty}>`
      : html`<${VirtualList} length=${listing.keys.length} rowHeight=${ROW_HEIGHT} label="Keys" onNear=${near} resetKey=${JSON.stringify(listing.query)}
          render=${index => html`<${Row} table=${listing.table} name=${listing.keys[index]} seen=${listing.seen.get(listing.keys[index])} isChosen=${listing.keys[index] === chosen} now=${now} />`} />`}
    ${dialog === "delete" && html`<${DeleteMany} listing=${listing} onClose=${() => setDialog(null)} />`}
  </section>`;
}

/** The key that is open: read when it is chosen, and when it changes elsewhere. */
function OpenKey({ listing, name }) {
  const [entry, setEntry] = useState(undefined);
  const [problem, setProblem] = useState(null);
  useEffect(() => {
    let isCurrent = true;
    const { table } = listing;
    const read = () => connection.request({ op: "get", table, key: name }).then(
      found => isCurrent && (setEntry(found), setProblem(null)),
      failure => isCurrent && (failure.status === 404 ? setEntry(null) : setProblem(failure)),
    );
    const reconnected = () => connection.state === "open" && read();
    setEntry(undefined);
    read();
    const changed = ({ detail }) => {
      if (detail.key !== name) return;
      if (detail.event === "Deleted") setEntry(null);
      else read();
    };
    listing.addEventListener("key", changed);
    listing.addEventListener("missed", read);
    connection.addEventListener("state", reconnected);
    return () => {
      isCurrent = false;
      listing.removeEventListener("missed", read);
      connection.removeEventListener("state", reconnected);
      listing.removeEventListener("key", changed);
    };
  }, [listing, name]);
  if (problem && entry === undefined) return html`<section class="editor"><${Failure} problem=${problem} /></section>`;
  if (entry === undefined) return html`<section class="editor"><p class="faint">Reading</p></section>`;
  return html`<${Editor} key=${name} table=${listing.table} keyName=${name} entry=${entry} history=${listing.history.get(name)} incompleteAt=${listing.incompleteAt} trouble=${problem}
    onRead=${fresh => { setEntry(fresh); if (fresh) listing.see(name, fresh); }} onGone=${() => { location.hash = `#/data/${encodeURIComponent(listing.table)}`; listing.list(); }} />`;
}

export function Data({ path }) {
  const { tables } = useAppState();
  const table = path[0];
  const key = path.length > 1 ? path.slice(1).join("/") : null;
  const listing = useListing(table);
  const [dialog, setDialog] = useState(null);
  useEffect(() => {
    const pressed = event => {
      if (event.key === "n" && !event.ctrlKey && !event.metaKey && !event.target.closest("input, textarea, select, dialog") && state.mayWrite(table)) {
        event.preventDefault();
        setDialog(table ? "key" : "table");
      }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [table]);
  const known = tables.some(one => one.name === table) || !table ? tables : [...tables, { name: table, mode: "eventual", keys: 0 }];
  return html`<main id="main" class=${"data " + (key ? "with-key" : table ? "with-table" : "")} tabindex="-1"><h1 class="hidden">Data</h1>
    <${Tables} tables=${known} chosen=${table} onNew=${() => setDialog("table")} />
    ${listing
      ? html`<${Keys} key=${table} listing=${listing} chosen=${key} dialog=${dialog} setDialog=${setDialog} />`
      : html`<${Empty} title=${tables.length === 0 ? "There is nothing in this cluster yet" : "Choose a table"}>${tables.length === 0 ? html`Write a first value: <code>curl -X PUT ${shellWord(connection.base)}/users/key/alice -d '{"value": {"visits": 1}}'</code>` : "Its keys and values appear here."}</${Empty}>`}
    ${listing && key && html`<${OpenKey} key=${table + "/" + key} listing=${listing} name=${key} />`}
    ${dialog === "key" && html`<${NewKey} table=${table} onClose=${() => setDialog(null)} />`}
    ${dialog === "table" && html`<${NewKey} onClose=${() => setDialog(null)} />`}
  </main>`;
}
