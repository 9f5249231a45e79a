// The nodes of the cluster and the links between them, as a picture.

import { html } from "./preact.js";
import { span } from "./format.js";
import { levelOf, links } from "./problems.js";

const WORDS = { equal: "same rows", differs: "rows differ", unlinked: "no link", down: "not reachable" };
const WIDTH = 640;
const HEIGHT = 340;

/** Where each node is: on an ellipse, the first at the top. */
function places(nodes) {
  if (nodes.length === 1) return new Map([[nodes[0].node, { x: WIDTH / 2, y: HEIGHT / 2 }]]);
  return new Map(
    nodes.map(({ node }, index) => {
      const angle = (2 * Math.PI * index) / nodes.length - (nodes.length === 2 ? Math.PI : Math.PI / 2);
      return [node, { x: WIDTH / 2 + 210 * Math.cos(angle), y: HEIGHT / 2 + 4 + 108 * Math.sin(angle) }];
    }),
  );
}

/** `leader`: the node that leads the strong tables. */
export function ClusterMap({ nodes, leader, voters, own, onNode }) {
  const at = places(nodes);
  const drawn = links(nodes).filter(({ from, to }) => at.has(from) && at.has(to));
  const label = nodes.map(one => `${one.address} ${one.answer ? one.answer.readiness.phase : "does not answer"}`).join(", ");
  const said = drawn.map(link => `${at.has(link.to) ? addressOf(nodes, link.from) : ""} and ${addressOf(nodes, link.to)}: ${WORDS[link.state]}`).join("; ");
  return html`<figure class="map">
    <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label=${`Map of the cluster. ${label}. ${said}`}>
      ${drawn.map(link => html`<${Link} key=${link.id} link=${link} from=${at.get(link.from)} to=${at.get(link.to)} labelled=${nodes.length <= 5} />`)}
      ${nodes.map(one => html`<${NodeMark} key=${one.node} one=${one} at=${at.get(one.node)} isLeader=${one.node === leader}
        isVoter=${voters.has(one.node)} isOwn=${one.node === own} onClick=${() => onNode(one.node)} />`)}
    </svg>
    <figcaption class="legend">
      <span class="key equal">same rows</span><span class="key differs">rows differ</span><span class="key unlinked">no link</span><span class="key down">not reachable</span>
    </figcaption>
  </figure>`;
}

const addressOf = (nodes, id) => nodes.find(({ node }) => node === id)?.address ?? id;

function Link({ link, from, to, labelled }) {
  const { member, state } = link;
  const text = state === "equal" ? span(member.round_trip_ms) : state !== "differs" ? WORDS[state] : member.lag_ms == null ? "not compared yet" : `differs for ${span(member.lag_ms)}`;
  return html`<g class=${"link " + state}>
    <line x1=${from.x} y1=${from.y} x2=${to.x} y2=${to.y} />
    ${labelled && html`<text x=${(from.x + to.x) / 2} y=${(from.y + to.y) / 2} dy="4" text-anchor="middle">${text}</text>`}
  </g>`;
}

function NodeMark({ one, at, isLeader, isVoter, isOwn, onClick }) {
  const phase = one.answer?.readiness.phase;
  const level = levelOf(one.answer);
  const role = isLeader ? "leader" : isVoter ? "voter" : "";
  const note = [isOwn && "this page", role, level !== "good" && (phase ?? "does not answer")].filter(Boolean).join(" · ");
  return html`<g class=${"node " + level} transform="translate(${at.x} ${at.y})" onClick=${onClick}>
    ${isLeader && html`<circle class="ring" r="27" />`}
    <circle r="20" />
    <path class="glyph" d=${level === "good" ? "M-7 0l5 5 9-10" : level === "warn" ? "M0-8v9M0 6v2" : "M-6-6l12 12M6-6l-12 12"} />
    <text class="name" y="40" text-anchor="middle">${one.address}</text>
    ${note && html`<text class="note" y="56" text-anchor="middle">${note}</text>`}
  </g>`;
}
