// The routers gossip knows of, with their live state.

import { byId, keep, make, setAttribute, setText } from "./dom.js";
import { age } from "./format.js";

/** Draws the list. */
export function drawMembers({ members, now_unix_ms: now }) {
  const live = members.filter((one) => one.live).length;
  setText(byId("members-note"), `${live} of ${members.length} live`);
  setAttribute(byId("members-note"), "data-level", live < members.length ? "bad" : null);
  const rows = members.map((one) => ({ ...one, age: Math.max(0, now - one.generation) }));
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
        setText(since, `started ${age(one.age)} ago`);
      },
    };
  });
}
