// Tables, their keys, and the editor. A list of keys is read a page at a time, and the values only of the rows in sight.

import { html, useEffect, useRef, useState } from "./preact.js";
import { Editor } from "./editor.js";
import { count, countdown, plural, preview, time } from "./format.js";
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
/** Listing again after changes: not more often than this. */
const REFRESH_MS = 1000;

/** What is known of the keys of one table: those listed so far, and what was seen of their values. */
class Listing extends EventTarget {
  keys = [];
  total = null;
  isDone = false;
  problem = null;
  seen = new Map();
  history = new Map();
  #cursor = null;
  #reading = null;
  #wanted = new Set();
  #inFlight = 0;
  #generation = 0;
  #stop = null;
  #timer = null;
  #frame = null;

  constructor(table) {
    super();
    this.table = table;
    this.query = { prefix: "", reverse: false };
  }

  open() {
    this.#stop = connection.subscribe({ table: this.table }, event => this.#hear(event));
    this.list();
  }

  close() {
    this.#stop?.();
    clearTimeout(this.#timer);
    cancelAnimationFrame(this.#frame);
    this.#generation += 1;
  }

  /** Lists from the start, with this query. What is shown stays until the new keys are there. */
  async list(query = this.query) {
    this.query = query;
    const generation = ++this.#generation;
    this.#reading = null;
    const wanted = Math.max(PAGE, this.keys.length);
    try {
      let keys = [];
      let cursor = null;
      do {
        const page = await this.#page(cursor);
        if (generation !== this.#generation) return;
        keys = keys.concat(page.keys);
        cursor = page.cursor;
      } while (cursor && keys.length < wanted);
      Object.assign(this, { keys, isDone: !cursor, problem: null });
      this.#cursor = cursor;
      this.#changed();
      const counted = await connection.fetch(`/${this.table}/count?${this.#parameters({})}`).then(response => response.json());
      if (generation !== this.#generation) return;
      this.total = counted.count;
    } catch (problem) {
      if (generation === this.#generation) this.problem = problem;
    }
    this.#changed();
  }

  /** Lists on, up to the row of this index. */
  async reach(index) {
    if (this.isDone || this.#reading || index < this.keys.length - PAGE / 4 || !this.#cursor) return;
    const generation = this.#generation;
    this.#reading = this.#page(this.#cursor);
    try {
      const page = await this.#reading;
      if (generation !== this.#generation) return;
      this.keys = this.keys.concat(page.keys);
      this.#cursor = page.cursor;
      this.isDone = !page.cursor;
    } catch (problem) {
      this.problem = problem;
    } finally {
      if (generation === this.#generation) this.#reading = null;
    }
    this.#changed();
    this.reach(index);
  }

  #parameters(more) {
    const { prefix } = this.query;
    return new URLSearchParams({ ...(prefix && { prefix }), ...more });
  }

  async #page(cursor) {
    const parameters = this.#parameters({ limit: PAGE, ...(this.query.reverse && { reverse: true }), ...(cursor && { cursor }) });
    const response = await connection.fetch(`/${this.table}/keys?${parameters}`);
    return { keys: await response.json(), cursor: response.headers.get("dynarust-next-cursor") };
  }

  /** Reads the values of the rows in sight that are not known yet. */
  want(first, last) {
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
        () => this.see(key, null),
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
    this.seen.set(key, entry && { text: preview(JSON.stringify(entry.value)), timestamp: entry.timestamp, expiresAt: entry.expires_at, version: entry.version });
    if (this.seen.size > SEEN_MAX) this.seen.delete(this.seen.keys().next().value);
    this.#changed();
  }

  #hear(event) {
    if (event.event === "resync") {
      this.seen.clear();
      return this.#listSoon();
    }
    if (event.event !== "Updated" && event.event !== "Deleted") return;
    const { key } = event;
    const isNew = event.event === "Deleted" || !this.seen.has(key);
    this.#remember(event);
    if (event.event === "Deleted") this.seen.delete(key);
    else if (this.seen.has(key)) this.see(key, event);
    if (isNew) this.#listSoon();
    this.dispatchEvent(new CustomEvent("key", { detail: event }));
    this.#changed();
  }

  #remember(event) {
    const text = event.event === "Deleted" ? null : JSON.stringify(event.value, null, 2);
    const isWhole = text != null && text.length <= HISTORY_TEXT_MAX;
    const entries = this.history.get(event.key) ?? [];
    entries.unshift({ timestamp: event.timestamp ?? Date.now(), text: isWhole || text == null ? text : preview(text), isWhole });
    this.history.delete(event.key);
    this.history.set(event.key, entries.slice(0, HISTORY_MAX));
    if (this.history.size > HISTORY_KEYS_MAX) this.history.delete(this.history.keys().next().value);
  }

  #listSoon() {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      if (this.keys.length <= 4 * PAGE) this.list();
    }, REFRESH_MS);
  }

  /** At most once a frame, however much comes in. */
  #changed() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.dispatchEvent(new Event("change"));
    });
  }
}

/** Kept while the tab is open, so that history is there on coming back. */
const listings = new Map();

function useListing(table) {
  const [, render] = useState(0);
  if (table && !listings.has(table)) listings.set(table, new Listing(table));
  const listing = listings.get(table);
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
    <div class="bar"><h2>Tables</h2>${!state.readOnly && html`<button type="button" class="small push" onClick=${onNew}>New</button>`}</div>
    <ul>${tables.map(table => html`<li key=${table.name}><a href=${`#/data/${encodeURIComponent(table.name)}`} aria-current=${table.name === chosen ? "page" : undefined}>
      <span class="mono">${table.name}</span>${table.mode === "strong" && html`<span class="tag">strong</span>`}<span class="number">${count(table.keys)}</span></a></li>`)}</ul>
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

function Toolbar({ listing, mayWrite, onDelete, onNew, onImport, onProblem }) {
  const timer = useRef();
  const file = useRef();
  const search = event => {
    clearTimeout(timer.current);
    const prefix = event.target.value;
    timer.current = setTimeout(() => listing.list({ ...listing.query, prefix }), 200);
  };
  const turn = () => listing.list({ ...listing.query, reverse: !listing.query.reverse });
  return html`<div class="bar toolbar">
    <label class="grow"><span class="hidden">Keys that begin with</span><input type="search" data-search placeholder="Keys that begin with …   ( / )" value=${listing.query.prefix} onInput=${search} spellcheck=${false} /></label>
    <button type="button" onClick=${turn} aria-label=${listing.query.reverse ? "Sorted from the last key: turn around" : "Sorted from the first key: turn around"}>Key ${listing.query.reverse ? "↓" : "↑"}</button>
    ${mayWrite && html`<button type="button" class="primary" onClick=${onNew}>New key</button>
      <button type="button" onClick=${() => file.current.click()} title="NDJSON, a row a line; or drop a file on the list">Import</button>
      <input ref=${file} type="file" hidden aria-label="File to import" onChange=${event => { onImport(event.target.files[0]); event.target.value = ""; }} />`}
    <button type="button" onClick=${() => exportTable(listing).catch(onProblem)}>Export</button>
    ${mayWrite && html`<button type="button" class="danger" onClick=${onDelete}>${listing.query.prefix ? "Delete these" : "Delete all"}</button>`}
  </div>`;
}

function Keys({ listing, chosen, dialog, setDialog }) {
  const now = useNow();
  const [problem, setProblem] = useState(null);
  const [isOver, setOver] = useState(false);
  const [done, setDone] = useState(null);
  const mayWrite = state.mayWrite(listing.table);
  const take = async file => {
    setOver(false);
    if (!file || !mayWrite) return;
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
  const isEmpty = listing.keys.length === 0 && listing.isDone;
  return html`<section class=${"keys " + (isOver ? "over" : "")} aria-label=${`Keys of ${listing.table}`} onDragOver=${event => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${drop}>
    <${Toolbar} listing=${listing} mayWrite=${mayWrite} onDelete=${() => setDialog("delete")} onNew=${() => setDialog("key")} onImport=${take} onProblem=${setProblem} />
    <${Failure} problem=${problem ?? listing.problem} onClose=${() => setProblem(null)} />
    <a class="back small" href="#/data">All tables</a>
    <p class="faint small" role="status">${done ?? (listing.total == null ? "" : `${plural(listing.total, "key")}${listing.query.prefix ? ` begin with ${listing.query.prefix}` : ""}`)}</p>
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
    setEntry(undefined);
    connection.request({ op: "get", table, key: name }).then(
      found => isCurrent && setEntry(found),
      failure => isCurrent && (failure.status === 404 ? setEntry(null) : setProblem(failure)),
    );
    const changed = ({ detail }) => {
      if (detail.key !== name) return;
      if (detail.event === "Deleted") setEntry(null);
      // An event has no expiry: read it again.
      else connection.request({ op: "get", table, key: name }).then(found => isCurrent && setEntry(found), () => {});
    };
    listing.addEventListener("key", changed);
    return () => {
      isCurrent = false;
      listing.removeEventListener("key", changed);
    };
  }, [listing, name]);
  if (problem) return html`<section class="editor"><${Failure} problem=${problem} /></section>`;
  if (entry === undefined) return html`<section class="editor"><p class="faint">Reading</p></section>`;
  return html`<${Editor} key=${name} table=${listing.table} keyName=${name} entry=${entry} history=${listing.history.get(name)}
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
      if (event.key === "n" && !event.ctrlKey && !event.metaKey && !event.target.closest("input, textarea, dialog") && !state.readOnly) {
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
      : html`<${Empty} title=${tables.length === 0 ? "There is nothing in this cluster yet" : "Choose a table"}>${tables.length === 0 ? html`Write a first value: <code>curl -X PUT ${connection.base}/users/key/alice -d '{"value": {"visits": 1}}'</code>` : "Its keys and values appear here."}</${Empty}>`}
    ${listing && key && html`<${OpenKey} key=${table + "/" + key} listing=${listing} name=${key} />`}
    ${dialog === "key" && html`<${NewKey} table=${table} onClose=${() => setDialog(null)} />`}
    ${dialog === "table" && html`<${NewKey} onClose=${() => setDialog(null)} />`}
  </main>`;
}
