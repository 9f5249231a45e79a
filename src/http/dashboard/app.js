// The page: its views, its keys, and who is signed in.

import { html, render, useEffect, useRef, useState } from "./preact.js";
import { Cluster } from "./cluster.js";
import { Data } from "./data.js";
import { Divergence } from "./divergence.js";
import { Live } from "./live.js";
import { connection, state, useAppState } from "./state.js";
import { Dialog } from "./widgets.js";

const VIEWS = [
  { name: "cluster", title: "Cluster", key: "c", view: Cluster },
  { name: "data", title: "Data", key: "d", view: Data },
  { name: "live", title: "Live", key: "l", view: Live },
  { name: "divergence", title: "Divergence", key: "v", view: Divergence },
];
/** A page of its own, with the same views at its top. */
const API = "/_/docs";
const KEYS = [
  ["/", "Search: put the cursor in the field of this view"],
  ["?", "Show these keys"],
  ...VIEWS.map(({ key, title }) => [`g ${key}`, `Go to ${title}`]),
  ["g a", "Go to API"],
  ["n", "New key, in Data"],
  ["Ctrl Enter", "Save, in the editor"],
  ["Space", "Pause or go on, in Live"],
  ["t", "Light, dark, or as the system"],
  ["Esc", "Close"],
];
const THEMES = ["system", "light", "dark"];
const THEME = "dynarust.theme";

/** The path behind the hash, in parts: `#/data/users/a%2Fb` is `["data", "users", "a/b"]`. */
const pathNow = () => location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decode);

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function usePath() {
  const [path, setPath] = useState(pathNow());
  useEffect(() => {
    const changed = () => setPath(pathNow());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return path;
}

function useTheme() {
  const stored = () => {
    try {
      return localStorage.getItem(THEME) ?? "system";
    } catch {
      return "system";
    }
  };
  const [theme, setTheme] = useState(stored());
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem(THEME, theme);
    } catch {
      // It holds for this page alone.
    }
  }, [theme]);
  return [theme, () => setTheme(before => THEMES[(THEMES.indexOf(before) + 1) % THEMES.length])];
}

/** Whether somebody types into a field, where keys are letters. */
const isTyping = ({ target }) => target.closest("input, textarea, select, dialog") != null;

function useKeys({ onHelp, onTheme }) {
  useEffect(() => {
    let isGoing = false;
    const pressed = event => {
      if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
      if (isGoing && event.key === "a") location.href = connection.base + API;
      const wentTo = isGoing && VIEWS.find(({ key }) => key === event.key);
      isGoing = event.key === "g";
      if (wentTo) location.hash = `#/${wentTo.name}`;
      else if (event.key === "/") document.querySelector("[data-search]")?.focus();
      else if (event.key === "?") onHelp();
      else if (event.key === "t") onTheme();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

function SignIn({ onClose }) {
  const field = useRef();
  const { client } = state;
  const submit = event => {
    event.preventDefault();
    connection.signIn(field.current.value.trim());
    state.status = null;
    onClose();
  };
  return html`<${Dialog} title="Sign in" onClose=${onClose}>
    <form onSubmit=${submit} class="stack">
      ${connection.state === "unauthorized" && html`<p class="failure" role="alert">${connection.detail}</p>`}
      <p>Paste a token of this cluster, or the text of <code>dynarust.admin-token</code> in the data directory of the node. It is kept in this tab until you close it or sign out.</p>
      <label>Token <input ref=${field} type="password" autocomplete="off" spellcheck=${false} required autofocus /></label>
      <div class="bar end">
        ${connection.token && html`<button type="button" onClick=${() => { connection.signIn(null); onClose(); }}>Sign out</button>`}
        <button type="submit" class="primary">Sign in</button>
      </div>
      ${connection.token && client.name && html`<p class="faint">Signed in as ${client.name}.</p>`}
    </form>
  </${Dialog}>`;
}

function Help({ onClose }) {
  return html`<${Dialog} title="Keys" onClose=${onClose}><dl class="keys">
    ${KEYS.map(([key, about]) => html`<div><dt>${key.split(" ").map(part => html`<kbd>${part}</kbd> `)}</dt><dd>${about}</dd></div>`)}
  </dl></${Dialog}>`;
}

const CONNECTION = { connecting: "connecting", open: "connected", lost: "connection lost", unauthorized: "not signed in" };

function Top({ path, theme, onTheme, onSignIn, onHelp }) {
  const { client } = useAppState();
  const here = path[0] ?? "cluster";
  const host = new URL(connection.base).host;
  return html`<header class="top">
    <a class="skip" href="#main" onClick=${event => { event.preventDefault(); document.getElementById("main")?.focus(); }}>Skip to the content</a>
    <a class="brand" href="#/cluster"><img src="/_/dashboard/icon.svg" alt="" width="22" height="22" />DynaRust</a>
    <nav aria-label="Views">
      ${VIEWS.map(({ name, title }) => html`<a href=${`#/${name}`} aria-current=${here === name ? "page" : undefined}>${title}</a>`)}
      <a href=${connection.base + API}>API</a>
    </nav>
    <div class="tools">
      <span class=${"connection " + connection.state} role="status" title=${connection.detail ?? ""}><i></i><span class="mono">${host}</span><span class="hidden"> ${CONNECTION[connection.state]}</span></span>
      <button type="button" class="quiet" aria-pressed=${state.readOnly} title="Read-only: change nothing from this page" onClick=${() => { state.readOnly = !state.readOnly; state.changed(); }}>${state.readOnly ? "Read-only" : "Writable"}</button>
      <button type="button" class="quiet" onClick=${onSignIn}>${connection.token ? client.name ?? "Signed in" : "Sign in"}</button>
      <button type="button" class="quiet icon" aria-label=${`Theme: ${theme}`} title=${`Theme: ${theme}`} onClick=${onTheme}>${theme === "light" ? "☀" : theme === "dark" ? "☾" : "◐"}</button>
      <button type="button" class="quiet icon" aria-label="Keys" title="Keys (?)" onClick=${onHelp}>?</button>
    </div>
  </header>`;
}

/** What is shown while there is nothing to show. */
function Waiting({ onSignIn }) {
  if (connection.state === "unauthorized") {
    return html`<main id="main" class="waiting" tabindex="-1"><h1>This node asks for a token</h1><p>${connection.detail}</p>
      <button type="button" class="primary" onClick=${onSignIn}>Sign in</button></main>`;
  }
  if (connection.state === "lost") {
    return html`<main id="main" class="waiting" tabindex="-1"><h1>No node answers</h1><p>The page keeps trying this node and the members that it knows.</p>
      <button type="button" onClick=${() => connection.retry()}>Try now</button></main>`;
  }
  if (state.failure) {
    return html`<main id="main" class="waiting" tabindex="-1"><h1>No status</h1><p>${state.failure.message}</p></main>`;
  }
  return html`<main id="main" class="waiting" tabindex="-1"><h1 class="hidden">DynaRust</h1><p class="faint" role="status">Connecting to the node</p></main>`;
}

function App() {
  const path = usePath();
  const [theme, onTheme] = useTheme();
  const [open, setOpen] = useState(null);
  useAppState();
  useKeys({ onHelp: () => setOpen("help"), onTheme });
  const close = () => setOpen(null);
  const { view, title } = VIEWS.find(({ name }) => name === path[0]) ?? VIEWS[0];
  useEffect(() => {
    document.title = `${title} · DynaRust`;
  }, [title]);
  return html`<${Top} path=${path} theme=${theme} onTheme=${onTheme} onSignIn=${() => setOpen("sign-in")} onHelp=${() => setOpen("help")} />
    ${state.status && connection.state === "lost" && html`<p class="lost" role="alert">The connection to the node was lost. The page goes on with another member as soon as one answers; what you see is the last that it knew.</p>`}
    ${state.status && connection.state !== "unauthorized" ? html`<${view} path=${path.slice(1)} theme=${theme} />` : html`<${Waiting} onSignIn=${() => setOpen("sign-in")} />`}
    ${open === "help" && html`<${Help} onClose=${close} />`}
    ${open === "sign-in" && html`<${SignIn} onClose=${close} />`}`;
}

state.start();
document.getElementById("app").replaceChildren();
render(html`<${App} />`, document.getElementById("app"));
