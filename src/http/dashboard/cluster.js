// The cluster: what is wrong, the map, and the figures of each node.

import { html, useState } from "./preact.js";
import { Charts } from "./charts.js";
import { bytes, count, plural, span } from "./format.js";
import { ClusterMap } from "./map.js";
import { allIsWell, levelOf, problems } from "./problems.js";
import { useAppState } from "./state.js";

const SHOWN_MAX = 4;

function Verdict({ nodes }) {
  const [isOpen, setOpen] = useState(false);
  const all = problems(nodes);
  if (all.length === 0) {
    return html`<div class="verdict good" role="status"><span class="mark" aria-hidden="true">✓</span><p><strong>${allIsWell(nodes)}</strong></p></div>`;
  }
  const shown = isOpen ? all : all.slice(0, SHOWN_MAX);
  return html`<div class=${"verdict " + all[0].level} role="status"><span class="mark" aria-hidden="true">!</span><div>
    ${shown.map(problem => html`<p key=${problem.text}><strong>${problem.text}</strong> ${problem.advice}</p>`)}
    ${all.length > shown.length && html`<button type="button" class="small" onClick=${() => setOpen(true)}>${all.length - shown.length} more</button>`}
  </div></div>`;
}

/** How a node is seen by the one that the page talks to. */
const seenFrom = (nodes, own, node) => nodes.find(one => one.node === own)?.answer?.cluster.members.find(member => member.node === node);

function NodeRow({ one, seen, isOwn, role, chosen }) {
  const { address, node, answer } = one;
  const phase = answer?.readiness.phase;
  const stateName = answer ? phase : seen?.state ?? "no answer";
  const level = levelOf(answer);
  const connections = answer && Object.values(answer.connections).reduce((sum, number) => sum + number, 0);
  const keys = answer && answer.tables.reduce((sum, table) => sum + table.keys, 0);
  const offset = seen?.clock_offset_ms;
  const cells = [
    ["State", html`<span class=${"state " + level}>${stateName}</span>${role && html` <span class="tag">${role}</span>`}`],
    ["Round trip", isOwn ? "this page" : span(seen?.round_trip_ms)],
    ["Clock", isOwn ? "–" : offset == null ? "–" : `${offset > 0 ? "+" : ""}${span(offset)}`],
    ["Keys", count(keys)],
    ["Disk", bytes(answer?.disk_bytes)],
    ["Memory", bytes(answer?.memory_bytes)],
    ["Connections", count(connections)],
    ["Subscriptions", count(answer?.subscriptions)],
    ["Up for", span(answer?.uptime_ms)],
  ];
  return html`<tr class=${chosen ? "chosen" : ""}>
    <th scope="row"><span class="mono">${address}</span><small class="mono faint">${node}</small></th>
    ${cells.map(([name, cell]) => html`<td data-name=${name}>${cell}</td>`)}
  </tr>`;
}

function Nodes({ nodes, own, group, chosen }) {
  const role = node => {
    if (!group) return "";
    if (group.leader?.node === node) return "leader";
    return group.voters?.some(voter => voter.node === node) ? "voter" : group.learners?.some(learner => learner.node === node) ? "learner" : "";
  };
  const heads = ["Node", "State", "Round trip", "Clock", "Keys", "Disk", "Memory", "Connections", "Subscriptions", "Up for"];
  return html`<section><h2>Nodes</h2><div class="scroll" tabindex="0" role="region" aria-label="Nodes"><table class="nodes">
    <thead><tr>${heads.map(head => html`<th scope="col">${head}</th>`)}</tr></thead>
    <tbody>${nodes.map(one => html`<${NodeRow} key=${one.node} one=${one} isOwn=${one.node === own} seen=${seenFrom(nodes, own, one.node)} role=${role(one.node)} chosen=${chosen === one.node} />`)}</tbody>
  </table></div></section>`;
}

/** The group of the strong tables as its leader sees it. */
function groupOf(nodes) {
  const views = nodes.map(({ answer }) => answer?.cluster.strong).filter(Boolean);
  return views.find(view => view.leads) ?? views.find(view => view.leader) ?? views[0];
}

function Strong({ group, tables }) {
  if (!group) return null;
  const name = member => html`<span class="mono">${member.address}</span>`;
  const names = tables.filter(table => table.mode === "strong").map(table => table.name).join(", ");
  return html`<section class="card"><h2>Strong tables</h2>
    <p class="faint">A majority of the voters agrees on one order of writes (Raft). ${names && `Tables: ${names}.`}</p>
    <dl class="facts">
      <div><dt>Leader</dt><dd>${group.leader ? name(group.leader) : html`<strong class="state bad">none</strong>`}</dd></div>
      <div><dt>Term</dt><dd>${count(group.term)}</dd></div>
      <div><dt>Log</dt><dd>${count(group.applied_index)} of ${count(group.log_index)} applied</dd></div>
      <div><dt>Voters</dt><dd>${(group.voters ?? []).map((voter, index) => html`${index > 0 && ", "}${name(voter)}${voter.matched_index != null && html` <small class="faint">at ${count(voter.matched_index)}</small>`}`)}</dd></div>
      ${group.learners?.length > 0 && html`<div><dt>Learners</dt><dd>${group.learners.map((one, index) => html`${index > 0 && ", "}${name(one)}`)}</dd></div>`}
    </dl></section>`;
}

export function Cluster({ theme }) {
  const state = useAppState();
  const [chosen, choose] = useState(null);
  const { nodes } = state;
  const own = state.own();
  const group = groupOf(nodes);
  const voters = new Set((group?.voters ?? []).map(({ node }) => node));
  return html`<main id="main" tabindex="-1"><h1 class="hidden">Cluster</h1>
    <${Verdict} nodes=${nodes} />
    <div class="columns">
      <section class="card"><h2>${plural(nodes.length, "node")}</h2>
        <${ClusterMap} nodes=${nodes} leader=${group?.leader?.node} voters=${voters} own=${own} onNode=${choose} />
      </section>
      <div class="side">
        <section class="card explain"><h2>How replicas stay the same</h2>
          <ol>
            <li>Each node takes writes and sends them on at once. When two wrote the same key, the later timestamp wins everywhere.</li>
            <li>Once a second two linked nodes compare a digest of all they hold: the root of a Merkle tree.</li>
            <li>If the roots differ, they walk down the tree to the rows that differ, and exchange only those. This is anti-entropy: what got lost, in a cut or a crash, comes back by itself.</li>
          </ol>
          <p><a href="#/divergence">See the trees side by side</a></p>
        </section>
        <${Strong} group=${group} tables=${state.tables} />
      </div>
    </div>
    <${Nodes} nodes=${nodes} own=${own} group=${group} chosen=${chosen} />
    <${Charts} theme=${theme} />
  </main>`;
}
