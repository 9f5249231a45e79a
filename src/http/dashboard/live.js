// Changes as they happen, and who else follows what. However many come, the page renders once a frame, and only the rows in sight.

import { html, useEffect, useRef, useState } from "./preact.js";
import { count, plural, preview, shellWord, short, time } from "./format.js";
import { connection, useAppState } from "./state.js";
import { Empty, Failure, VirtualList } from "./widgets.js";

/** Changes that are kept. */
const KEPT_MAX = 2000;
const ROW_HEIGHT = 30;
/** Faster than this nobody reads along: the list is renewed less often. */
const CALM_MAX = 60;
const RENDER_MS = { calm: 0, fast: 250 };

/** The changes of one topic. */
class Feed {
  changes = [];
  total = 0;
  isPaused = false;
  /** Whether the node could not send all changes. */
  hasMissed = false;
  problem = null;
  /** Whether changes came during this pause, which are left out. */
  #isSkipping = false;
  #seconds = new Map();

  /** Pauses or goes on. Where changes are left out, the list says so. */
  pause(isPaused) {
    this.isPaused = isPaused;
    if (isPaused || !this.#isSkipping) return;
    this.#isSkipping = false;
    this.#keep({ isGap: true, text: PAUSED, timestamp: Date.now() });
  }

  hear(event) {
    if (event.event === "error" || event.event === "failed") {
      this.problem = new Error(event.detail ?? "the subscription ended");
      return;
    }
    if (event.event === "resync") {
      this.hasMissed = true;
      this.#keep({ isGap: true, text: MISSED, timestamp: Date.now() });
      return;
    }
    if (event.event !== "Updated" && event.event !== "Deleted") return;
    this.total += 1;
    const second = Math.floor(Date.now() / 1000);
    this.#seconds.set(second, (this.#seconds.get(second) ?? 0) + 1);
    if (this.#seconds.size > 10) this.#seconds.delete(this.#seconds.keys().next().value);
    if (this.isPaused) this.#isSkipping = true;
    else this.#keep({ event: event.event, table: event.table, key: event.key, text: event.text && preview(event.text), timestamp: event.timestamp });
  }

  #keep(change) {
    this.changes.push(change);
    if (this.changes.length > KEPT_MAX + 500) this.changes.splice(0, this.changes.length - KEPT_MAX);
  }

  /** Changes a second, over the last five whole ones. */
  rate() {
    const now = Math.floor(Date.now() / 1000);
    let sum = 0;
    for (let second = now - 5; second < now; second += 1) sum += this.#seconds.get(second) ?? 0;
    return sum / 5;
  }
}

/** Where some are missing: they came too fast for this page, or the connection was away for too long. */
const MISSED = "some changes were missed here";
const PAUSED = "what changed during the pause is left out here";

/** What a filter looks at. */
const words = change => (change.isGap ? change.text : `${change.table}/${change.key} ${change.text ?? "deleted"}`).toLowerCase();

function useFeed(topic, isPaused) {
  const feed = useRef();
  const [, render] = useState(0);
  useEffect(() => {
    feed.current = new Feed();
    feed.current.pause(isPaused);
    let frame = null;
    let last = 0;
    const soon = () => {
      frame ??= requestAnimationFrame(at => {
        frame = null;
        const pause = feed.current.rate() > CALM_MAX ? RENDER_MS.fast : RENDER_MS.calm;
        if (at - last < pause) return soon();
        last = at;
        render(number => number + 1);
      });
    };
    const stop = connection.subscribe(topic, event => {
      feed.current.hear(event);
      soon();
    });
    return () => {
      stop();
      cancelAnimationFrame(frame);
    };
  }, [topic.table]);
  feed.current?.pause(isPaused);
  return feed.current;
}

function Change({ change }) {
  if (change.isGap) return html`<p class="row change gap"><span class="when mono">${time(change.timestamp)}</span><span></span><span>${change.text}</span></p>`;
  return html`<a class="row change" href=${`#/data/${encodeURIComponent(change.table)}/${encodeURIComponent(change.key)}`}>
    <span class="when mono">${time(change.timestamp)}</span><span class=${"what " + change.event.toLowerCase()}>${change.event === "Deleted" ? "del" : "put"}</span>
    <span class="mono key">${change.table}/${change.key}</span><span class="mono value">${change.text ?? "deleted"}</span></a>`;
}

function Subscriptions({ nodes }) {
  const topics = new Map();
  for (const { answer } of nodes) {
    for (const { topic, count: number } of answer?.topics ?? []) topics.set(topic, (topics.get(topic) ?? 0) + number);
  }
  const all = nodes.reduce((sum, { answer }) => sum + (answer?.subscriptions ?? 0), 0);
  const sorted = [...topics].sort(([, one], [, other]) => other - one);
  return html`<aside class="card" aria-label="Subscriptions"><h2>${plural(all, "subscription")}</h2>
    <p class="faint small">Of all clients on all nodes, this page included.</p>
    <ul class="topics">${sorted.map(([topic, number]) => html`<li key=${topic}><span class="mono">${topic}</span><span class="number">${count(number)}</span></li>`)}</ul></aside>`;
}

export function Live() {
  const { nodes, tables } = useAppState();
  const [filter, setFilter] = useState("");
  const [table, setTable] = useState("*");
  const [isPaused, setPaused] = useState(false);
  const feed = useFeed({ table }, isPaused);
  useEffect(() => {
    const pressed = event => {
      if (event.key !== " " || event.target.closest("input, textarea, select, button, dialog, a")) return;
      event.preventDefault();
      setPaused(before => !before);
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
  const changes = feed?.changes ?? [];
  const sought = filter.toLowerCase();
  const matching = sought ? changes.filter(change => words(change).includes(sought)) : changes;
  const rate = feed?.rate() ?? 0;
  return html`<main id="main" class="live" tabindex="-1"><h1 class="hidden">Live</h1>
    <section aria-label="Changes">
      <div class="bar toolbar">
        <label class="grow"><span class="hidden">Only changes with</span><input type="search" data-search placeholder="Only changes with …   ( / )" value=${filter} onInput=${event => setFilter(event.target.value)} spellcheck=${false} /></label>
        <label class="inline">Table <select value=${table} onChange=${event => setTable(event.target.value)}><option value="*">all</option>${tables.map(({ name }) => html`<option key=${name} value=${name}>${name}</option>`)}</select></label>
        <button type="button" class=${isPaused ? "primary" : ""} aria-pressed=${isPaused} onClick=${() => setPaused(!isPaused)}>${isPaused ? "Go on" : "Pause"}</button>
      </div>
      <p class="faint small rate"><b>${short(rate)}</b> changes a second · ${plural(feed?.total ?? 0, "change")} since you opened this${rate > CALM_MAX ? " · renewed four times a second" : ""}${feed?.hasMissed ? " · some changes were missed" : ""}</p>
      <${Failure} problem=${feed?.problem} />
      ${changes.length === 0
        ? html`<${Empty} title="Nothing has changed yet">Write something, here or anywhere in the cluster, and it appears within milliseconds: <code>curl -X PUT ${shellWord(connection.base)}/users/key/alice -d '{"value": 1}'</code></${Empty}>`
        : html`<${VirtualList} length=${matching.length} rowHeight=${ROW_HEIGHT} label="Changes, the newest first" className="changes"
            render=${index => html`<${Change} change=${matching[matching.length - 1 - index]} />`} />`}
    </section>
    <${Subscriptions} nodes=${nodes} />
  </main>`;
}
