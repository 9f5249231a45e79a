// Small parts of the page.

import { html, useEffect, useRef, useState } from "./preact.js";

/** A dialog over the page. Escape closes it, and the focus goes back to where it was. */
export function Dialog({ title, onClose, children, wide }) {
  const dialog = useRef();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog ref=${dialog} class=${wide ? "wide" : ""} aria-label=${title} onClose=${onClose}
    onClick=${event => event.target === dialog.current && onClose()}>
    <header><h2>${title}</h2><button type="button" class="quiet" aria-label="Close" onClick=${onClose}>✕</button></header>
    <div class="inside">${children}</div>
  </dialog>`;
}

/** What there is to do where nothing is. */
export function Empty({ title, children }) {
  return html`<div class="empty"><p class="title">${title}</p><div>${children}</div></div>`;
}

/** A failure, in its own words. */
export function Failure({ problem, onClose, onRetry }) {
  if (!problem) return null;
  return html`<p class="failure" role="alert">${problem.message}
    ${onRetry && html`<button type="button" class="small" onClick=${onRetry}>Try again</button>`}
    ${onClose && html`<button type="button" class="quiet" aria-label="Dismiss" onClick=${onClose}>✕</button>`}</p>`;
}

/** Copies a text, and says so. `text()` is `null` if there is nothing to copy. */
export function Copy({ label, text }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    const copying = text();
    if (copying == null) return;
    await copyText(copying);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<button type="button" class="small" onClick=${copy}>${copied ? "Copied" : label}</button>`;
}

/** The clipboard is only there for pages over HTTPS and on this machine. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** A list of which only what is in sight is on the page. `render(index)` makes a row; another `resetKey` goes back
 * to the top. */
export function VirtualList({ length, rowHeight, render, label, onNear, resetKey, className = "" }) {
  const box = useRef();
  const [view, setView] = useState({ top: 0, height: 600 });
  const measure = () => {
    const { scrollTop, clientHeight } = box.current;
    setView(before => (before.top === scrollTop && before.height === clientHeight ? before : { top: scrollTop, height: clientHeight }));
  };
  useEffect(() => {
    const observer = new ResizeObserver(measure);
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    box.current.scrollTop = 0;
  }, [resetKey]);
  const first = Math.max(0, Math.floor(view.top / rowHeight) - 6);
  const last = Math.min(length, Math.ceil((view.top + view.height) / rowHeight) + 6);
  useEffect(() => onNear?.(first, last), [first, last, length]);
  const rows = [];
  for (let index = first; index < last; index += 1) {
    rows.push(html`<div key=${index} class="slot" role="listitem" style=${{ top: `${index * rowHeight}px`, height: `${rowHeight}px` }}>${render(index)}</div>`);
  }
  return html`<div class=${"virtual " + className} ref=${box} onScroll=${measure} tabindex="0" role="region" aria-label=${label}>
    <div class="all" role="list" style=${{ height: `${length * rowHeight}px` }}>${rows}</div></div>`;
}

/** The current time, renewed every second. */
export function useNow() {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

/** Offers a text as a file. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
