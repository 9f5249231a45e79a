// The editor of one value: marks what is no JSON, saves only over the version that was read, and shows both sides of a conflict.

import { html, useEffect, useMemo, useRef, useState } from "./preact.js";
import { countdown, date, escapedKeyPath, keyPath, shellWord, time } from "./format.js";
import { compact, jsonError, pretty } from "./json.js";
import { connection, state } from "./state.js";
import { Copy, Dialog, Failure, useNow } from "./widgets.js";

/** Longer texts are not checked at each keystroke, which would take too long; saving checks them. */
const CHECKED_MAX = 256 * 1024;

/** A body of more bytes than this is no argument of a command any more: Linux takes 128 KiB of each. */
const ARGUMENT_BYTES_MAX = 100_000;

/** A value of the history is shown on many lines, unless its indentation makes it longer than this. */
const HISTORY_PRETTY_MAX = 16 * 1024;

const NEW = "{\n  \n}";

/** Keys that no URL can name: a client that normalises its path goes a level up there, even if they are escaped. */
const isInNoUrl = key => key === "." || key === "..";

const bytesOf = text => new TextEncoder().encode(text).length;

/** Whether JavaScript has the same value: other numbers would be written, and `__proto__` is no name in its literals. */
const isSameInScripts = text => !text.includes("__proto__") && JSON.stringify(JSON.parse(text)) === compact(text);

/** What writes this value, in several languages. Where numbers would change on the way through a language, the text of the value is sent. */
const SNIPPETS = {
  curl: ({ origin, path, text }) => {
    // Else curl takes these parts out of the path.
    const asIs = /(^|\/)\.{1,2}(\/|$)/.test(path) ? " --path-as-is" : "";
    const authorization = connection.token ? ' -H "Authorization: Bearer $DYNARUST_TOKEN"' : "";
    const body = `{"value":${compact(text)}}`;
    const command = `curl -X PUT${asIs} ${shellWord(origin + path)}${authorization}`;
    return bytesOf(body) > ARGUMENT_BYTES_MAX ? `${command} --data-binary @- <<'END'\n${body}\nEND` : `${command} -d ${shellWord(body)}`;
  },
  JavaScript: ({ origin, table, key, text }) => {
    if (isSameInScripts(text) && !isInNoUrl(key)) {
      const options = connection.token ? ", { token: process.env.DYNARUST_TOKEN }" : "";
      return `import { DynaRust } from "./dynarust.js";\n\nconst db = new DynaRust(${JSON.stringify(origin)}${options});\nawait db.table(${JSON.stringify(table)}).put(${JSON.stringify(key)}, ${compact(text)});`;
    }
    const headers = connection.token ? '\n  headers: { Authorization: `Bearer ${process.env.DYNARUST_TOKEN}` },' : "";
    const value = compact(text);
    const { why, method, path, body } = isInNoUrl(key)
      ? { why: `A batch: no URL can have the key "${key}".`, method: "POST", path: `/${table}/batch`, body: `[{"op":"put","key":${JSON.stringify(key)},"value":${value}}]` }
      : { why: "The text of the value: as a value of JavaScript it would not be the same.", method: "PUT", path: escapedKeyPath(table, key), body: `{"value":${value}}` };
    return `// ${why}\nawait fetch(${JSON.stringify(origin + path)}, {\n  method: "${method}",${headers}\n  body: ${JSON.stringify(body)},\n});`;
  },
  Python: ({ origin, path, table, key, text }) => {
    if (isSameInScripts(text)) {
      const [module, token] = connection.token ? ["import json, os", ', token=os.environ["DYNARUST_TOKEN"]'] : ["import json", ""];
      return `${module}\nfrom dynarust import DynaRust\n\ndb = DynaRust(${JSON.stringify(origin)}${token})\ndb.table(${JSON.stringify(table)}).put(${JSON.stringify(key)}, json.loads(${JSON.stringify(compact(text))}))`;
    }
    const [module, headers] = connection.token ? ["import os\n", ', headers={"Authorization": "Bearer " + os.environ["DYNARUST_TOKEN"]}'] : ["", ""];
    return `${module}from urllib.request import Request, urlopen\n\n# The text of the value: as a value of Python it would not be the same.\nbody = ${JSON.stringify(`{"value":${compact(text)}}`)}\nurlopen(Request(${JSON.stringify(origin + path)}, body.encode(), method="PUT"${headers}))`;
  },
};

function snippet(language, table, key, text) {
  const { origin } = new URL(connection.base);
  return SNIPPETS[language]({ origin, path: keyPath(table, key), table, key, text });
}

/** The numbers of lines, which are made again only for another number of lines. */
function Lines({ text, wrong }) {
  const length = useMemo(() => Math.min(text.split("\n").length, 5000), [text]);
  return useMemo(() => html`<div class="lines" aria-hidden="true">${Array.from({ length }, (_, index) => html`<span class=${wrong === index + 1 ? "wrong" : ""}>${index + 1}</span>`)}</div>`, [length, wrong]);
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
  const shown = useMemo(() => theirs && pretty(theirs.text), [theirs?.text]);
  return html`<${Dialog} title="Somebody else changed this key" onClose=${onClose} wide>
    <p>While you edited, the value was ${theirs ? "written" : "deleted"} elsewhere. Nothing was saved. Which one is to stay?</p>
    <div class="sides">
      <section aria-label="Your value"><h3>Yours</h3><pre tabindex="0">${mine}</pre><button type="button" class="primary" onClick=${onMine}>Save mine over it</button></section>
      <section aria-label="The value on the node"><h3>On the node</h3><pre tabindex="0">${theirs ? shown : "(deleted)"}</pre>
        <p class="faint">${theirs && `${date(theirs.timestamp)}, by node ${theirs.node}`}</p><button type="button" onClick=${onTheirs}>Take this one</button></section>
    </div></${Dialog}>`;
}

function Past({ entry, onTake }) {
  const shown = useMemo(() => {
    if (!entry.isWhole) return entry.text;
    const laidOut = pretty(entry.text);
    return laidOut.length <= HISTORY_PRETTY_MAX ? laidOut : entry.text;
  }, [entry]);
  return html`<li><span class="mono">${time(entry.timestamp)}</span>
    <span class="mono text">${shown ?? "(deleted)"}</span>
    ${entry.isWhole && html`<button type="button" class="small" onClick=${() => onTake(pretty(entry.text))}>Use</button>`}</li>`;
}

/** `incompleteAt`: up to when changes of any key may be missing; `null` if none are. */
function History({ history = [], incompleteAt, onTake }) {
  if (history.length === 0) {
    const since = incompleteAt === null ? "Nothing has changed since you opened this table." : `Up to ${time(incompleteAt)} changes may be missing. Since then nothing has changed.`;
    return html`<p class="faint">${since} What changes while it is open is kept here, until you close the tab.</p>`;
  }
  return html`<ol class="history">${history.map(entry => (entry.isGap
    ? html`<li class="gap"><span class="mono">${time(entry.timestamp)}</span><span>up to here changes may be missing</span></li>`
    : html`<${Past} entry=${entry} onTake=${onTake} />`))}</ol>`;
}

/** `entry`: the key as it was read, `null` for a new one. `history`: its changes while the table was open, which may be incomplete up to
 * `incompleteAt`. `trouble`: why it could not be read again. */
export function Editor({ table, keyName, entry, onRead, onGone, history, incompleteAt, trouble }) {
  // A value may be long, and the page renders at every change of the table.
  const original = useMemo(() => (entry ? pretty(entry.text) : NEW), [entry?.text]);
  const [text, setText] = useState(original);
  const [ttl, setTtl] = useState("");
  const [problem, setProblem] = useState(null);
  const [conflict, setConflict] = useState(null);
  const [saved, setSaved] = useState(false);
  const latest = useRef();
  latest.current = text;
  /** Whether a save was sent that is not answered yet. */
  const isSaving = useRef(false);
  // Somebody who has changed nothing sees what others write; somebody who has keeps the text.
  const isTouched = useRef(false);
  useEffect(() => {
    if (!isTouched.current) setText(original);
  }, [entry?.version]);
  const wrong = useMemo(() => (text.length <= CHECKED_MAX ? jsonError(text) : null), [text]);
  const why = state.whyNoWrites(table, keyName);
  const mayWrite = why === null;
  const isStale = isTouched.current && !isSaving.current && entry && entry.version !== (isTouched.current.version ?? entry.version);
  const input = value => {
    if (!isTouched.current) isTouched.current = { version: entry?.version ?? null };
    setText(value);
    setSaved(false);
  };
  const reset = fresh => {
    isTouched.current = false;
    setConflict(null);
    setProblem(null);
    setText(fresh ? pretty(fresh.text) : original);
  };
  const read = () => connection.request({ op: "get", table, key: keyName }).catch(problem => (problem.status === 404 ? null : Promise.reject(problem)));
  const put = async (version, sent) => {
    const condition = version ? { if_match: `"${version}"` } : { if_none_match: "*" };
    const expiry = ttl.trim() ? { ttl: ttl.trim() } : entry?.expires_at ? { expires_at: entry.expires_at } : {};
    try {
      return await connection.request({ op: "put", table, key: keyName, ...condition, ...expiry }, sent);
    } catch (failure) {
      if (failure.status !== 412) {
        setProblem(failure);
        return null;
      }
      await read().then(
        theirs => setConflict({ theirs }),
        unread => setProblem(new Error(`Nothing was saved: somebody else changed this key. What it is now could not be read (${unread.message}). Try again.`)),
      );
      return null;
    }
  };
  const save = async version => {
    // A second save would find the version of the first, and call it somebody else's.
    if (!mayWrite || isSaving.current) return;
    setProblem(null);
    setConflict(null);
    const mistake = jsonError(text);
    if (mistake) {
      setProblem(new Error(`This is not JSON yet. Line ${mistake.line}, column ${mistake.column}: ${mistake.why}`));
      return;
    }
    isSaving.current = true;
    const written = await put(version, text);
    isSaving.current = false;
    if (!written) return;
    // What is typed from now on, or was meanwhile, is an edit of this version.
    isTouched.current = { version: written.version };
    setSaved(latest.current === text);
    setTtl("");
    await read().then(
      fresh => {
        onRead(fresh);
        if (latest.current === text) reset(fresh);
      },
      unread => setProblem(new Error(`It is saved. What it is now could not be read: ${unread.message}`)),
    );
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
  const copied = language => {
    if (!jsonError(text)) return snippet(language, table, keyName, text);
    setProblem(new Error("Nothing was copied: this is not JSON yet."));
    return null;
  };
  return html`<section class="editor" aria-label=${`Key ${keyName}`}>
    <header class="bar"><h2 class="mono">${keyName}</h2>
      ${entry?.expires_at && html`<${Expiry} expiresAt=${entry.expires_at} />`}
      <a class="close" href=${`#/data/${encodeURIComponent(table)}`} aria-label="Close the key">✕</a></header>
    ${entry && html`<p class="faint small">Written ${date(entry.timestamp)} by node <span class="mono">${entry.node}</span></p>`}
    ${isStale && html`<p class="notice" role="status">Written elsewhere since you began to edit. Saving will show you both.</p>`}
    <${TextArea} text=${text} onInput=${input} onSave=${() => save(base)} wrong=${wrong} disabled=${!mayWrite} />
    <p class=${"hint " + (wrong ? "wrong" : "")} role="status">${wrong ? `Line ${wrong.line}, column ${wrong.column}: ${wrong.why}` : saved ? "Saved" : "JSON"}</p>
    <${Failure} problem=${problem ?? trouble} onClose=${problem && (() => setProblem(null))} />
    ${why && html`<p class="faint small">${why}</p>`}
    ${mayWrite && html`<div class="bar">
      <button type="button" class="primary" disabled=${Boolean(wrong)} onClick=${() => save(base)}>Save</button>
      <button type="button" disabled=${Boolean(wrong)} onClick=${() => input(pretty(text))}>Format</button>
      <button type="button" disabled=${!isTouched.current} onClick=${() => reset(entry)}>Undo</button>
      <label class="inline">TTL <input class="short" placeholder=${entry?.expires_at ? "keep" : "none"} value=${ttl} onInput=${event => setTtl(event.target.value)} title="30s, 5m, 1h, 7d" /></label>
      ${entry && html`<button type="button" class="danger push" onClick=${remove}>Delete</button>`}</div>`}
    <div class="bar"><span class="faint">Copy as</span>${!wrong && Object.keys(SNIPPETS).map(language => html`<${Copy} key=${language} label=${language} text=${() => copied(language)} />`)}</div>
    <h3>History</h3>
    <${History} history=${history} incompleteAt=${incompleteAt} onTake=${input} />
    ${conflict && html`<${Conflict} mine=${text} theirs=${conflict.theirs} onClose=${() => setConflict(null)}
      onMine=${() => save(conflict.theirs?.version)} onTheirs=${() => { conflict.theirs ? onRead(conflict.theirs) : onGone(); reset(conflict.theirs); }} />`}
  </section>`;
}
