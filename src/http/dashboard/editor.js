// The editor of one value: marks what is no JSON, saves only over the version that was read, and shows both sides of a conflict.

import { html, useEffect, useRef, useState } from "./preact.js";
import { countdown, date, keyPath, time } from "./format.js";
import { connection, state } from "./state.js";
import { Copy, Dialog, Failure, useNow } from "./widgets.js";

/** Longer values are shown as they are: formatting and checking them at each keystroke would take too long. */
const FORMATTED_MAX = 256 * 1024;

export const pretty = value => JSON.stringify(value, null, 2);

const SPACE = /[\t\n\r ]*/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const WORD = /true|false|null/y;

/** Reads JSON as far as it is JSON. Browsers say where it ends in different words, or not at all. */
class Reader {
  at = 0;

  constructor(text) {
    this.text = text;
  }

  /** Throws `{ at, why }` at the first mistake. */
  read() {
    this.value();
    this.take(SPACE);
    if (this.at < this.text.length) this.fail("the value has ended here: nothing may follow");
  }

  take(pattern) {
    pattern.lastIndex = this.at;
    const isThere = pattern.test(this.text);
    if (isThere) this.at = pattern.lastIndex;
    return isThere;
  }

  /** Whether this character comes next, after spaces; then it is taken. */
  next(character) {
    this.take(SPACE);
    if (this.text[this.at] !== character) return false;
    this.at += 1;
    return true;
  }

  fail(why) {
    throw { at: this.at, why: this.at >= this.text.length ? `the text ends here: ${why}` : why };
  }

  value() {
    if (this.next("{")) return this.items("}", () => this.member());
    if (this.next("[")) return this.items("]", () => this.value());
    if (!this.take(STRING) && !this.take(NUMBER) && !this.take(WORD)) {
      this.fail(this.text[this.at] === '"' ? "this string does not end, or has a character that must be escaped" : "expected a value");
    }
    return undefined;
  }

  member() {
    this.take(SPACE);
    if (!this.take(STRING)) this.fail("expected a name in double quotes");
    if (!this.next(":")) this.fail("expected a colon");
    this.value();
  }

  items(end, item) {
    if (this.next(end)) return;
    do item();
    while (this.next(","));
    if (!this.next(end)) this.fail(`expected a comma or ${end}`);
  }
}

/** What is wrong with a text, with its line and column; `null` for JSON. */
export function jsonError(text) {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    let found = { at: text.length, why: error.message };
    try {
      new Reader(text).read();
    } catch (mistake) {
      if (mistake.why) found = mistake;
    }
    const before = text.slice(0, found.at).split("\n");
    return { line: before.length, column: before[before.length - 1].length + 1, why: found.why };
  }
}

function snippets(table, key, value) {
  const { origin } = new URL(connection.base);
  const path = keyPath(table, key);
  const text = JSON.stringify(value);
  const quoted = `'${JSON.stringify({ value }).replaceAll("'", "'\\''")}'`;
  const authorization = connection.token ? " -H \"Authorization: Bearer $DYNARUST_TOKEN\"" : "";
  const python = JSON.stringify(text);
  return {
    curl: `curl -X PUT '${origin}${path}'${authorization} -d ${quoted}`,
    JavaScript: `import { DynaRust } from "./dynarust.js";\n\nconst db = new DynaRust(${JSON.stringify(origin)});\nawait db.table(${JSON.stringify(table)}).put(${JSON.stringify(key)}, ${text});`,
    Python: `import json\nfrom dynarust import DynaRust\n\ndb = DynaRust(${JSON.stringify(origin)})\ndb.table(${JSON.stringify(table)}).put(${JSON.stringify(key)}, json.loads(${python}))`,
  };
}

function Lines({ text, wrong }) {
  const length = text.split("\n").length;
  return html`<div class="lines" aria-hidden="true">${Array.from({ length: Math.min(length, 5000) }, (_, index) => html`<span class=${wrong === index + 1 ? "wrong" : ""}>${index + 1}</span>`)}</div>`;
}

function TextArea({ text, onInput, onSave, wrong, disabled }) {
  const lines = useRef();
  const pressed = event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      onSave();
    }
  };
  return html`<div class="code"><div class="gutter" ref=${lines}><${Lines} text=${text} wrong=${wrong?.line} /></div>
    <textarea aria-label="Value, as JSON" aria-invalid=${Boolean(wrong)} spellcheck=${false} readonly=${disabled} wrap="off" value=${text}
      onInput=${event => onInput(event.target.value)} onKeyDown=${pressed} onScroll=${event => { lines.current.scrollTop = event.target.scrollTop; }}></textarea></div>`;
}

function Expiry({ expiresAt }) {
  const now = useNow();
  return html`<span class="tag" title=${date(expiresAt)}>expires in ${countdown(expiresAt - now)}</span>`;
}

function Conflict({ mine, theirs, onMine, onTheirs, onClose }) {
  return html`<${Dialog} title="Somebody else changed this key" onClose=${onClose} wide>
    <p>While you edited, the value was ${theirs ? "written" : "deleted"} elsewhere. Nothing was saved. Which one is to stay?</p>
    <div class="sides">
      <section aria-label="Your value"><h3>Yours</h3><pre tabindex="0">${mine}</pre><button type="button" class="primary" onClick=${onMine}>Save mine over it</button></section>
      <section aria-label="The value on the node"><h3>On the node</h3><pre tabindex="0">${theirs ? pretty(theirs.value) : "(deleted)"}</pre>
        <p class="faint">${theirs && `${date(theirs.timestamp)}, by node ${theirs.node}`}</p><button type="button" onClick=${onTheirs}>Take this one</button></section>
    </div></${Dialog}>`;
}

function History({ history, onTake }) {
  if (!history || history.length === 0) return html`<p class="faint">Nothing has changed since you opened this tab. What changes from now on is kept here, until you close it.</p>`;
  return html`<ol class="history">${history.map(entry => html`<li><span class="mono">${time(entry.timestamp)}</span>
    <span class="mono text">${entry.text ?? "(deleted)"}</span>
    ${entry.isWhole && html`<button type="button" class="small" onClick=${() => onTake(entry.text)}>Use</button>`}</li>`)}</ol>`;
}

/** `entry`: the key as it was read, `null` for a new one. `history`: its changes since the tab was opened. */
export function Editor({ table, keyName, entry, onRead, onGone, history }) {
  const original = entry ? pretty(entry.value) : "{\n  \n}";
  const [text, setText] = useState(original);
  const [ttl, setTtl] = useState("");
  const [problem, setProblem] = useState(null);
  const [conflict, setConflict] = useState(null);
  const [saved, setSaved] = useState(false);
  // Somebody who has changed nothing sees what others write; somebody who has keeps the text.
  const isTouched = useRef(false);
  useEffect(() => {
    if (!isTouched.current) setText(original);
  }, [entry?.version]);
  const wrong = text.length <= FORMATTED_MAX ? jsonError(text) : null;
  const mayWrite = state.mayWrite(table);
  const isStale = isTouched.current && entry && entry.version !== (isTouched.current.version ?? entry.version);
  const input = value => {
    if (!isTouched.current) isTouched.current = { version: entry?.version ?? null };
    setText(value);
    setSaved(false);
  };
  const reset = fresh => {
    isTouched.current = false;
    setConflict(null);
    setProblem(null);
    setText(fresh ? pretty(fresh.value) : original);
  };
  const read = () => connection.request({ op: "get", table, key: keyName }).catch(problem => (problem.status === 404 ? null : Promise.reject(problem)));
  const save = async version => {
    setProblem(null);
    if (jsonError(text)) return setProblem(new Error("This is not JSON yet: see the marked line."));
    const condition = version ? { if_match: `"${version}"` } : { if_none_match: "*" };
    const expiry = ttl.trim() ? { ttl: ttl.trim() } : entry?.expires_at ? { expires_at: entry.expires_at } : {};
    try {
      await connection.request({ op: "put", table, key: keyName, value: JSON.parse(text), ...condition, ...expiry });
      setSaved(true);
      setTtl("");
      reset(await read().then(fresh => (onRead(fresh), fresh)));
    } catch (failure) {
      if (failure.status !== 412) return setProblem(failure);
      setConflict({ theirs: await read().catch(() => null) });
    }
  };
  const base = isTouched.current ? isTouched.current.version : entry?.version;
  const remove = async () => {
    try {
      await connection.request({ op: "delete", table, key: keyName, if_match: `"${entry.version}"` });
      onGone();
    } catch (failure) {
      setProblem(failure);
    }
  };
  const copies = wrong ? {} : snippets(table, keyName, text.length <= FORMATTED_MAX ? JSON.parse(text) : null);
  return html`<section class="editor" aria-label=${`Key ${keyName}`}>
    <header class="bar"><h2 class="mono">${keyName}</h2>
      ${entry?.expires_at && html`<${Expiry} expiresAt=${entry.expires_at} />`}
      <a class="close" href=${`#/data/${encodeURIComponent(table)}`} aria-label="Close the key">✕</a></header>
    ${entry && html`<p class="faint small">Written ${date(entry.timestamp)} by node <span class="mono">${entry.node}</span></p>`}
    ${isStale && html`<p class="notice" role="status">Written elsewhere since you began to edit. Saving will show you both.</p>`}
    <${TextArea} text=${text} onInput=${input} onSave=${() => save(base)} wrong=${wrong} disabled=${!mayWrite} />
    <p class=${"hint " + (wrong ? "wrong" : "")} role="status">${wrong ? `Line ${wrong.line}, column ${wrong.column}: ${wrong.why}` : saved ? "Saved" : "JSON"}</p>
    <${Failure} problem=${problem} onClose=${() => setProblem(null)} />
    ${mayWrite && html`<div class="bar">
      <button type="button" class="primary" disabled=${Boolean(wrong)} onClick=${() => save(base)}>Save</button>
      <button type="button" disabled=${Boolean(wrong) || text.length > FORMATTED_MAX} onClick=${() => input(pretty(JSON.parse(text)))}>Format</button>
      <button type="button" disabled=${!isTouched.current} onClick=${() => reset(entry)}>Undo</button>
      <label class="inline">TTL <input class="short" placeholder=${entry?.expires_at ? "keep" : "none"} value=${ttl} onInput=${event => setTtl(event.target.value)} title="30s, 5m, 1h, 7d" /></label>
      ${entry && html`<button type="button" class="danger push" onClick=${remove}>Delete</button>`}</div>`}
    <div class="bar"><span class="faint">Copy as</span>${Object.entries(copies).map(([name, snippet]) => html`<${Copy} key=${name} label=${name} text=${() => snippet} />`)}</div>
    <h3>History</h3>
    <${History} history=${history} onTake=${input} />
    ${conflict && html`<${Conflict} mine=${text} theirs=${conflict.theirs} onClose=${() => setConflict(null)}
      onMine=${() => save(conflict.theirs?.version)} onTheirs=${() => { conflict.theirs ? onRead(conflict.theirs) : onGone(); reset(conflict.theirs); }} />`}
  </section>`;
}
