// What is wrong, in a sentence each, with what to do.

import { plural, shellWord, span } from "./format.js";

/** How much older than the last round the last equal one may be. A round is about what is older than two seconds, and one or two may be
 * different because rows were on their way. */
const UNEQUAL_MS = 6000;

const ADVICE = {
  "read-only": "Free or repair its disk; it takes writes again by itself.",
  refused: "Give it the same secret as the others, and start it again.",
  clock: "Set its clock (chrony or NTP), then start it again.",
  broken: "Start it again, and look at its log.",
  repairing: "Its damaged rows come back from the other nodes; look at its disk.",
  joining: "See that the address it was told to join is reachable.",
};

const DOING = { joining: "looks for the cluster", syncing: "receives what the cluster holds", draining: "is stopping", repairing: "has rows that it cannot read" };

/** How well a node is, by its answer: "good", "warn", "bad". */
export function levelOf(answer) {
  const phase = answer?.readiness.phase;
  if (phase === "ready") return "good";
  return phase === "syncing" || phase === "joining" ? "warn" : "bad";
}

/** The state of the link from one node to another: "equal", "differs", "unlinked", "down". */
function linkState(member) {
  if (!member || member.state === "down" || member.state === "left") return "down";
  if (!member.linked) return "unlinked";
  return member.lag_ms == null || member.lag_ms - (member.last_round_ms ?? 0) > UNEQUAL_MS ? "differs" : "equal";
}

/** The links between the nodes that answered, each once, as seen from the side that is worse off. */
export function links(nodes) {
  const found = new Map();
  const rank = { equal: 0, differs: 1, unlinked: 2, down: 3 };
  for (const { node, answer } of nodes) {
    for (const member of answer?.cluster.members ?? []) {
      if (member.node === node || member.state === "forgotten") continue;
      const id = [node, member.node].sort().join(" ");
      const link = { id, from: node, to: member.node, state: linkState(member), member };
      const before = found.get(id);
      if (!before || rank[link.state] > rank[before.state]) found.set(id, link);
    }
  }
  return [...found.values()];
}

/** All that is wrong, the worst first: `{ level: "bad" | "warn", text, advice }`. */
export function problems(nodes) {
  const found = [];
  const name = id => nodes.find(({ node }) => node === id)?.address ?? id;
  const answered = nodes.filter(({ answer }) => answer);
  for (const { node, address, error } of nodes.filter(one => !one.answer)) {
    const seen = answered.flatMap(({ answer }) => answer.cluster.members).find(member => member.node === node);
    if (seen?.state === "left") {
      found.push({ level: "warn", text: `${address} was stopped ${span(seen.since_ms)} ago, and is expected back.`, advice: `Start it. If it will not come back, run: DynaRust forget ${shellWord(address)}` });
    } else if (seen?.state === "down") {
      found.push({ level: "bad", text: `${address} has been down for ${span(seen.since_ms)}.`, advice: `The others serve all data. Start it again; if it will not come back, run: DynaRust forget ${shellWord(address)}` });
    } else {
      found.push({ level: "warn", text: `${address} does not answer: ${error}.`, advice: "If this lasts, look at its log." });
    }
  }
  for (const { address, answer } of answered) {
    const { phase, detail, done, total } = answer.readiness;
    if (phase !== "ready") {
      const doing = DOING[phase] ?? `is not ready (${phase})`;
      const progress = total > 0 ? ` (${Math.floor((100 * done) / total)} %)` : "";
      found.push({ level: levelOf(answer), text: `${address} ${doing}${progress}${detail ? `: ${detail}` : ""}.`, advice: ADVICE[phase] ?? "" });
    }
    const { strong, strong_failure, kept_without_majority } = answer.cluster;
    if (strong_failure) found.push({ level: "bad", text: `${address} serves no strong tables: ${strong_failure}`, advice: "" });
    if (strong && !strong.leader) found.push({ level: "bad", text: `${address} knows no leader of the strong tables: they take no writes there.`, advice: "A majority of the voters must be up and linked." });
    if (kept_without_majority > 0) found.push({ level: "bad", text: `${address} sees less than half of the cluster.`, advice: "Bring the other members back; this side forgets nobody meanwhile." });
    for (const member of answer.cluster.members) {
      if (member.rows_refused) found.push({ level: "bad", text: `${address} takes no rows from ${member.address}: ${member.rows_refused}.`, advice: "" });
    }
  }
  for (const link of links(answered)) {
    const pair = `${name(link.from)} and ${name(link.to)}`;
    if (link.state === "unlinked") {
      found.push({ level: "bad", text: `${pair} are not linked: what one takes does not reach the other directly.`, advice: "See that each reaches the other's port." });
    } else if (link.state === "differs" && link.member.lag_ms != null) {
      found.push({ level: "warn", text: `${pair} have held different rows for ${span(link.member.lag_ms)}.`, advice: "Anti-entropy is comparing them; Divergence shows where they differ." });
    }
  }
  return found.sort((one, other) => (one.level === other.level ? 0 : one.level === "bad" ? -1 : 1));
}

/** The sentence if nothing is wrong. */
export function allIsWell(nodes) {
  if (nodes.length <= 1) return "The node works. It is alone: start another with its address, and they replicate.";
  return `All ${plural(nodes.length, "node")} are up, linked, and hold the same rows.`;
}
