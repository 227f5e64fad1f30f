// The routers gossip knows of, with their live state.

import { byId, keep, make, setAttribute, setText } from "./dom.js";
import { age } from "./format.js";

/** Draws the list. */
export function drawMembers({ members, backends, split, now_unix_ms: now, uptime_s: uptime }) {
  const live = members.filter((one) => one.live).length;
  setText(byId("members-note"), `${live} of ${members.length} live`);
  setAttribute(byId("members-note"), "data-level", live < members.length ? "bad" : null);
  // A generation is a start time where there is gossip to tell it, else nothing.
  const ageOf = (one) => (one.this_node ? uptime * 1000 : one.generation > 0 ? Math.max(0, now - one.generation) : null);
  const rows = members.map((one) => ({ ...one, age: ageOf(one) }));
  const parted = partition(members, backends, split);
  setText(byId("members-partition"), parted);
  byId("members-partition").hidden = !parted;
  byId("members-alone").hidden = members.length > 1;
  byId("members-aside").hidden = members.length <= 1;
  keep(byId("members"), rows, (one) => one.node, ({ node }) => {
    const region = make("span", { class: "muted member-region" });
    const state = make("span", { class: "badge" });
    const since = make("span", { class: "muted member-since" });
    const mark = make("span", { class: "chip" }, "this one");
    const name = make("span", { class: "member-name", title: node }, node);
    const root = make("li", {}, make("div", { class: "member-head" }, name, mark), state, region, since);
    return {
      root,
      update(one) {
        setText(region, one.region);
        setText(state, one.live ? "live" : "not heard");
        setAttribute(state, "data-health", one.live ? "healthy" : "unhealthy");
        mark.hidden = !one.this_node;
        setText(since, one.age === null ? "start not known" : `started ${age(one.age)} ago`);
      },
    };
  });
}

/** What speaks for a partition: silent routers, split limits, peers that see a backend otherwise. */
function partition(members, backends, split) {
  const silent = members.filter((one) => !one.live).map((one) => one.node);
  const others = members.filter((one) => !one.this_node);
  const signs = [];
  if (others.length && silent.length === others.length) signs.push("no other router is heard: this one is cut off, or all others are down");
  else if (silent.length) signs.push(`not heard: ${silent.join(", ")}`);
  if (split) signs.push("limits are split, each router keeps to its own part");
  const disputed = backends.filter((one) => one.peers.some((peer) => peer.health !== one.health)).map((one) => one.name);
  if (silent.length && disputed.length) signs.push(`peers see otherwise: ${disputed.join(", ")}`);
  return signs.length ? `Partition? ${signs.join("; ")}.` : "";
}
