// Where the replicas of a table differ: the roots of their Merkle trees side by side, the 256 partitions below, and the keys below those.

import { html, useEffect, useState } from "./preact.js";
import { bytes, count, date, plural, time } from "./format.js";
import { connection, state, useAppState } from "./state.js";
import { Empty, Failure } from "./widgets.js";

const PARTITIONS = 256;
const DIGEST_HEX = 12;
/** What comes and goes within a second. */
const EVERY_MS = 500;
/** What the nodes renew no more often. */
const SLOWLY_MS = 2000;

/** Asks again and again while the view is open. `null` asks for nothing. */
function useReport(message, everyMs = EVERY_MS) {
  const [answer, setAnswer] = useState(null);
  const [problem, setProblem] = useState(null);
  const text = message && JSON.stringify(message);
  useEffect(() => {
    setAnswer(null);
    setProblem(null);
    if (!text) return undefined;
    let isCurrent = true;
    let timer;
    const ask = async () => {
      try {
        if (!document.hidden) {
          const found = await connection.request({ op: "report", ...JSON.parse(text) });
          if (isCurrent) setAnswer(found), setProblem(null);
        }
      } catch (failure) {
        if (isCurrent && failure.status) setProblem(failure);
      }
      if (isCurrent) timer = setTimeout(ask, everyMs);
    };
    ask();
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [text]);
  return [answer, problem];
}

const digestOf = (answer, partition) => answer.digests.slice(partition * DIGEST_HEX, (partition + 1) * DIGEST_HEX);

/** The partitions in which the nodes that answered are not all the same. */
function differing(nodes) {
  const known = nodes.filter(({ answer }) => answer);
  const found = new Set();
  for (let partition = 0; partition < PARTITIONS; partition += 1) {
    if (known.some(({ answer }) => digestOf(answer, partition) !== digestOf(known[0].answer, partition))) found.add(partition);
  }
  return found;
}

/** The root of each table on each node, all as of one instant. */
function Roots({ tables, roots, chosen }) {
  const answered = roots.nodes.filter(({ answer }) => answer);
  const of = new Map(answered.map(({ node, answer }) => [node, new Map(answer.tables.map(table => [table.name, table]))]));
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Roots"><table class="roots"><thead><tr><th scope="col">Table</th>${answered.map(one => html`<th scope="col" class="mono">${one.address}</th>`)}<th scope="col">Replicas</th></tr></thead>
    <tbody>${tables.map(table => {
      const cells = answered.map(({ node }) => of.get(node).get(table.name));
      // Null where a node does not know its root, as while it counts its rows.
      const known = cells.filter(cell => cell?.root !== null);
      const isOther = cell => cell?.root !== null && cell?.root !== known[0]?.root;
      const state = cells.some(isOther) ? html`<span class="state warn">differ</span>` : known.length < cells.length ? html`<span class="state">not known yet</span>` : html`<span class="state good">same</span>`;
      return html`<tr key=${table.name} class=${table.name === chosen ? "chosen" : ""}><th scope="row"><a class="mono" href=${`#/divergence/${encodeURIComponent(table.name)}`} aria-current=${table.name === chosen ? "true" : undefined}>${table.name}</a></th>
        ${cells.map(cell => html`<td class=${"mono root " + (isOther(cell) ? "other" : "")}>${cell?.root === null ? "not known yet" : html`${cell?.root ?? "no rows"}<small class="faint"> ${count(cell?.rows ?? 0)}</small>`}</td>`)}
        <td>${state}</td></tr>`;
    })}</tbody></table></div>`;
}

function Strip({ nodes, differ, chosen, onChoose }) {
  const known = nodes.filter(({ answer }) => answer);
  const rows = partition => Math.max(0, ...known.map(({ answer }) => answer.rows[partition]));
  const most = Math.max(1, ...Array.from({ length: PARTITIONS }, (_, partition) => rows(partition)));
  const level = partition => (rows(partition) === 0 ? 0 : 1 + Math.min(3, Math.floor((4 * rows(partition)) / (most + 1))));
  const moved = event => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 32, ArrowUp: -32 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (Number(event.target.dataset.partition ?? 0) + step + PARTITIONS) % PARTITIONS;
    event.currentTarget.querySelector(`[data-partition="${next}"]`).focus();
  };
  return html`<div class="strip" role="group" aria-label=${`256 partitions, of which ${differ.size} differ. Arrow keys move.`} onKeyDown=${moved}>
    ${Array.from({ length: PARTITIONS }, (_, partition) => html`<button type="button" key=${partition} data-partition=${partition} tabindex=${partition === (chosen ?? 0) ? 0 : -1}
      class=${`cell l${level(partition)} ${differ.has(partition) ? "differ" : ""} ${chosen === partition ? "chosen" : ""}`}
      aria-label=${`Partition ${partition}, ${plural(rows(partition), "row")}${differ.has(partition) ? ", differs" : ""}`} title=${`Partition ${partition}: ${plural(rows(partition), "row")}${differ.has(partition) ? ", differs" : ""}`}
      onClick=${() => onChoose(partition)}></button>`)}</div>`;
}

function Keys({ table, partition, nodes }) {
  const [answer, problem] = useReport({ report: "differences", table, partition }, SLOWLY_MS);
  if (problem) return html`<${Failure} problem=${problem} />`;
  if (!answer) return html`<p class="faint">Reading partition ${partition}</p>`;
  const reached = nodes.filter(({ node, answer: status }) => status && !answer.silent.includes(node));
  const silent = nodes.filter(({ node }) => answer.silent.includes(node)).map(one => html`<p key=${one.node}><span class="mono">${one.address}</span> <span class="state bad">does not answer</span></p>`);
  if (answer.rows.length === 0) return html`${silent}<p class="faint">All replicas have the same rows in partition ${partition}.</p>`;
  const newest = versions => Object.values(versions).reduce((found, version) => (version && (!found || version.version > found) ? version.version : found), null);
  return html`${silent}<p>${plural(answer.total, "key")} of partition ${partition} ${answer.total === 1 ? "is" : "are"} not the same everywhere. The latest version of each wins.${answer.total > answer.rows.length ? ` The first ${answer.rows.length}:` : ""}</p>
    <div class="scroll" tabindex="0" role="region" aria-label="Keys that differ"><table><thead><tr><th scope="col">Key</th>${reached.map(one => html`<th scope="col" class="mono">${one.address}</th>`)}</tr></thead>
    <tbody>${answer.rows.map(({ key, versions }) => html`<tr key=${key}><th scope="row"><a class="mono" href=${`#/data/${encodeURIComponent(table)}/${encodeURIComponent(key)}`}>${key}</a></th>
      ${reached.map(({ node }) => {
        const version = versions[node];
        return html`<td class=${"mono " + (version?.version === newest(versions) ? "latest" : "older")}>${version ? html`${date(version.timestamp)}${version.deleted ? " deleted" : ""}` : "no row"}</td>`;
      })}</tr>`)}</tbody></table></div>`;
}

function Tree({ table, nodes }) {
  const [answer, problem] = useReport({ report: "partitions", table: table.name });
  const [chosen, choose] = useState(null);
  useEffect(() => choose(null), [table.name]);
  if (problem) return html`<${Failure} problem=${problem} />`;
  if (!answer) return html`<p class="faint">Asking the nodes</p>`;
  const differ = differing(answer.nodes);
  const silent = answer.nodes.filter(one => one.error);
  const unknown = answer.nodes.filter(one => !one.error && !one.answer);
  return html`
    <p class="small faint">As of ${time(answer.at_ms)}: what is younger than two seconds may still be on its way.</p>
    ${silent.map(one => html`<p key=${one.node}><span class="mono">${one.address}</span> <span class="state bad">does not answer</span></p>`)}
    ${unknown.map(one => html`<p key=${one.node}><span class="mono">${one.address}</span> <span class="state">not known yet: it may be counting its rows</span></p>`)}
    <h3>${differ.size === 0 ? (unknown.length > 0 ? "All 256 partitions are the same where they are known" : "All 256 partitions are the same") : `${plural(differ.size, "partition")} of 256 ${differ.size === 1 ? "differs" : "differ"}`}</h3>
    <${Strip} nodes=${answer.nodes} differ=${differ} chosen=${chosen} onChoose=${choose} />
    <p class="legend small"><span class="cell-key l2">rows: the stronger, the more</span><span class="cell-key differ">replicas differ: click for the keys</span></p>
    ${chosen != null && html`<${Keys} key=${chosen} table=${table.name} partition=${chosen} nodes=${nodes} />`}`;
}

function Log() {
  const [answer] = useReport({ report: "comparisons" }, SLOWLY_MS);
  const entries = (answer?.nodes ?? []).flatMap(({ address, answer: list }) => (list ?? []).map(entry => ({ ...entry, from: address })));
  entries.sort((one, other) => other.at_ms - one.at_ms);
  return html`<section><h2>Comparisons</h2>
    ${entries.length === 0
      ? html`<${Empty} title="No comparison was needed yet">While the roots are equal, nodes exchange one digest a second and nothing else. Stop a node, write to another, and start it again: the comparison that heals it appears here.</${Empty}>`
      : html`<div class="scroll" tabindex="0" role="region" aria-label="Comparisons"><table class="log"><thead><tr><th scope="col">When</th><th scope="col">From</th><th scope="col">To</th><th scope="col">Levels</th><th scope="col">Messages</th><th scope="col">Digests</th><th scope="col">Rows sent</th><th scope="col">Rows received</th><th scope="col">Found</th></tr></thead>
        <tbody>${entries.slice(0, 60).map(entry => html`<tr key=${entry.at_ms + entry.from + entry.peer}><td class="mono">${time(entry.at_ms)}</td><td class="mono">${entry.from}</td><td class="mono">${entry.address}</td>
          <td>${count(entry.steps)}</td><td>${count(entry.messages)}</td><td>${bytes(entry.bytes)}</td><td>${count(entry.rows_sent)}</td><td>${count(entry.rows_received)}</td>
          <td>${entry.without_difference ? html`<span class="faint">no difference</span>` : entry.begun_here ? "began here" : "answered"}</td></tr>`)}</tbody></table></div>
        <p class="faint small">Rows include those that were written and sent on in the same two seconds.</p>`}</section>`;
}

function CompareNow() {
  const [said, setSaid] = useState(null);
  const compare = async () => {
    try {
      const { peers } = await connection.fetch("/_/admin/sync", { method: "POST" }).then(response => response.json());
      setSaid({ message: `Comparing with ${plural(peers, "node")}.` });
    } catch (problem) {
      setSaid({ message: problem.message });
    }
  };
  const why = state.whyNoAdmin();
  return html`<button type="button" disabled=${Boolean(why)} title=${why ?? ""} onClick=${compare}>Compare now</button>${said && html`<span class="small faint" role="status">${said.message}</span>`}`;
}

export function Divergence({ path }) {
  const { nodes, tables } = useAppState();
  const compared = tables.filter(table => table.mode !== "strong");
  const [roots] = useReport({ report: "roots" });
  const table = compared.find(({ name }) => name === path[0]) ?? compared[0];
  return html`<main id="main" tabindex="-1"><h1 class="hidden">Divergence</h1>
    <div class="columns even"><section><div class="bar"><h2>Roots</h2><span class="push"></span><${CompareNow} /></div>
      ${state.whyNoAdmin() && html`<p class="small faint">${state.whyNoAdmin()}</p>`}
      <p class="faint">Each table is a Merkle tree on each node. Equal roots mean equal rows, all of them, and no row has to be sent to know it. The number is that of rows, deleted ones that are still remembered included.</p>
      ${compared.length === 0 ? html`<${Empty} title="There are no eventual tables yet">As soon as there is a key, its table's trees appear here.</${Empty}>` : roots && html`<${Roots} tables=${compared} roots=${roots} chosen=${table?.name} />`}</section>
    ${table && html`<section class="card"><h2>Partitions of <span class="mono">${table.name}</span></h2><${Tree} key=${table.name} table=${table} nodes=${nodes} /></section>`}</div>
    <${Log} />
  </main>`;
}
