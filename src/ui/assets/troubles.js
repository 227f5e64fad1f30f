// What is wrong now, in one strip above everything: what somebody who is called at night looks for first.

import { byId, keep, make, setAttribute, setText } from "./dom.js";
import { percent } from "./format.js";

const SHOWN_MAX = 6;
const NEARLY_SPENT = 0.8;

/** Draws the strip. */
export function drawTroubles(data) {
  const found = troubles(data);
  const strip = byId("troubles");
  setAttribute(strip, "data-level", found.some((one) => one.level === "bad") ? "bad" : found.length ? "warn" : "ok");
  setText(byId("troubles-sum"), found.length ? `${found.length} ${found.length === 1 ? "thing needs" : "things need"} a look` : "Nothing is wrong: every router is heard, every backend is healthy.");
  const more = found.length - SHOWN_MAX;
  const shown = found.slice(0, SHOWN_MAX);
  if (more > 0) shown.push({ key: "more", level: "warn", text: `and ${more} more below` });
  keep(byId("troubles-list"), shown, (one) => one.key, () => {
    const root = make("li");
    return {
      root,
      update(one) {
        setText(root, one.text);
        setAttribute(root, "data-level", one.level);
      },
    };
  });
}

/** Everything that is not as it should be, the gravest first. */
function troubles({ members, backends, budgets, split }) {
  const found = [];
  const add = (level, key, text) => found.push({ level, key, text });
  const silent = members.filter((one) => !one.live && !one.this_node);
  for (const { node, region } of silent) add("bad", `member ${node}`, `router ${node} (${region}) is not heard`);
  for (const { region, all, ill } of regions(backends)) {
    if (ill.length === all && all > 1) add("bad", `region ${region}`, `no cluster of ${region} is healthy`);
    else for (const one of ill) add("bad", `ill ${one.name}`, `${one.name} (${one.region || one.provider}) is ${one.health}`);
  }
  for (const one of backends) {
    if (!one.cluster && one.health !== "healthy") add("bad", `ill ${one.name}`, `provider ${one.name} is ${one.health}`);
    else if (one.breaker_open && one.health === "healthy") add("bad", `breaker ${one.name}`, `the breaker of ${one.name} is open: its requests failed`);
  }
  for (const one of budgets) {
    const part = one.limit_usd > 0 ? one.spent_usd / one.limit_usd : 1;
    if (part >= 1) add("bad", `budget ${one.scope}`, `the budget of ${one.scope} is spent`);
    else if (part >= NEARLY_SPENT) add("warn", `budget ${one.scope}`, `${percent(one.spent_usd, one.limit_usd)} of the budget of ${one.scope} is spent`);
  }
  if (split) add("warn", "split", "limits are split: each router keeps to its own part");
  return found;
}

/** Clusters by region, with those that are not well. */
function regions(backends) {
  const known = new Map();
  for (const one of backends.filter((backend) => backend.cluster)) {
    const entry = known.get(one.region) ?? { region: one.region, all: 0, ill: [] };
    entry.all += 1;
    if (one.health !== "healthy") entry.ill.push(one);
    known.set(one.region, entry);
  }
  return [...known.values()];
}
