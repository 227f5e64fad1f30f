// The demo's buttons that break things, and how routing answers: who got the traffic before and since.

import { byId, keep, make, setAttribute, setText } from "./dom.js";
import { age, count, percent, rate, timeOfDay } from "./format.js";
import { isShown, onView } from "./views.js";

const EVERY_MS = 1000;
const BEFORE_MS = 20000;
const KEPT_MS = 60000;
const STORY_MAX = 60;

const KINDS = {
  kill: ["Kill a region's router", "It crashes: connections break, clients go to the next region, peers notice its silence."],
  partition: ["Partition a region", "Nothing gets between it and the other regions; providers stay in reach."],
  slow: ["Slow a cluster", "Twelve times as long to the first token and for each token."],
  burst: ["Burst", "Five times as many requests, for 20 seconds."],
  preempt: ["Preempt a spot cluster", "Eight seconds' notice, then its machines are gone."],
  outage: ["Provider outage", "It answers every request with an error."],
};

let state = null;
let asking = false;
let timer = 0;
let seen = [];
let baseline = null;
let onRegions = () => {};
let before = null;

/** Starts once the router says that it stands on the demo's stage. */
export function startBreakages(tellRegions) {
  if (timer) return;
  onRegions = tellRegions;
  timer = setInterval(() => document.hidden || read(), EVERY_MS);
  onView((name) => name === "break" && read());
  read();
}

/** The other regions' pages, for when this router is gone. */
export const otherRegions = (own) => (state?.regions ?? []).filter((one) => one.region !== own);

async function read() {
  if (asking) return;
  asking = true;
  try {
    const response = await fetch("/ui/demo", { headers: { "x-llm-router-page": "1" }, cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!response.ok) return;
    const now = await response.json();
    compareBreakages(state, now);
    state = now;
    onRegions(now.regions);
    drawBreaks();
  } catch {
    // The banner says that the router does not answer.
  } finally {
    asking = false;
  }
}

function drawBreaks() {
  const kinds = Object.keys(KINDS).map((kind) => ({ kind, all: state.breakages.filter((one) => one.kind === kind) }));
  keep(byId("breaks"), kinds, (one) => one.kind, ({ kind }) => {
    const [title, text] = KINDS[kind];
    const targets = make("ul", { class: "targets" });
    const root = make("li", { class: "break" }, make("h3", {}, title), make("p", { class: "muted" }, text), targets);
    return { root, update: ({ all }) => keep(targets, all, (one) => one.target, createTarget) };
  });
}

function createTarget(one) {
  const left = make("span", { class: "left" });
  const name = one.kind === "burst" ? "more requests" : one.target;
  const button = make("button", { type: "button", "data-break": `${one.kind}/${one.target}` }, make("span", {}, name), left);
  button.addEventListener("click", () => change(button, one));
  return {
    root: make("li", {}, button),
    update({ since_ms: since, mends_in_ms: mends }) {
      const broken = since !== null;
      setAttribute(button, "aria-pressed", String(broken));
      setText(left, broken ? `mend (${Math.ceil(mends / 1000)} s)` : "break");
    },
  };
}

async function change(button, { kind, target }) {
  const broken = button.getAttribute("aria-pressed") === "true";
  setText(byId("break-error"), "");
  try {
    const response = await fetch(`/ui/demo/${kind}/${encodeURIComponent(target)}`, {
      method: broken ? "DELETE" : "POST",
      headers: { "x-llm-router-page": "1" },
      signal: AbortSignal.timeout(5000),
    });
    if (!response.ok) {
      const told = await response.json().catch(() => null);
      throw new Error(told?.error?.message ?? `The router answered ${response.status}.`);
    }
    read();
  } catch (error) {
    setText(byId("break-error"), error instanceof TypeError ? "The router could not be reached." : error.message);
  }
}

const describe = ({ kind, target }) => `${KINDS[kind]?.[0] ?? kind}${kind === "burst" ? "" : `: ${target}`}`;

function compareBreakages(was, now) {
  const isBroken = (state, one) => state?.breakages.find((other) => other.kind === one.kind && other.target === one.target)?.since_ms ?? null;
  for (const one of now.breakages) {
    const [earlier, later] = [isBroken(was, one), one.since_ms];
    if (earlier === null && later !== null) {
      tell("bad", describe(one));
      if (was) takeBaseline(describe(one));
    } else if (was && earlier !== null && later === null) {
      tell("ok", `Mended: ${describe(one)}`);
    }
  }
  for (const region of now.regions) {
    const earlier = was?.regions.find((other) => other.region === region.region);
    if (earlier && earlier.up !== region.up) tell(region.up ? "ok" : "bad", `The router of ${region.region} is ${region.up ? "up again" : "down"}`);
  }
}

// --- how routing answers

const countsOf = (data) => ({
  at: data.now_unix_ms,
  requests: data.totals.requests,
  errors: data.totals.errors,
  fallbacks: data.totals.fallbacks,
  backends: new Map(data.backends.map((one) => [one.name, one.requests])),
});

/** Takes note of the router's figures, whichever view is shown. */
export function noteBreakages(data, tones) {
  if (!data.staged) return;
  const now = countsOf(data);
  // A router that was started again counts from zero: what it counted before is no base.
  if (seen.length && now.requests < seen.at(-1).requests) {
    seen = [];
    if (baseline) baseline.at = now;
  }
  seen = [...seen.filter((one) => now.at - one.at <= KEPT_MS), now];
  compareFacts(data);
  if (isShown("break")) drawShift(data, tones, now);
}

function takeBaseline(name) {
  const last = seen.at(-1);
  if (!last) return;
  const first = seen.find((one) => last.at - one.at <= BEFORE_MS) ?? last;
  baseline = { name, at: last, before: difference(first, last) };
}

function difference(from, to) {
  const backends = new Map([...to.backends].map(([name, value]) => [name, Math.max(0, value - (from.backends.get(name) ?? 0))]));
  const sum = (key) => Math.max(0, to[key] - from[key]);
  return { seconds: (to.at - from.at) / 1000, requests: sum("requests"), errors: sum("errors"), fallbacks: sum("fallbacks"), backends };
}

function drawShift(data, tones, now) {
  if (!baseline) return;
  const { before: earlier, at, name } = baseline;
  const since = difference(at, now);
  setText(byId("shift-note"), `since “${name}”, ${age(since.seconds * 1000)} ago`);
  const pace = (part) => (part.seconds > 0 ? `${rate(part.requests / part.seconds)}/s` : "–");
  const rows = [["Requests", pace(earlier), pace(since)], ["Errors", count(earlier.errors), count(since.errors)], ["Fallbacks", count(earlier.fallbacks), count(since.fallbacks)]];
  keep(byId("shift-sums"), rows.map(([label, was, is]) => ({ label, was, is })), (row) => row.label, ({ label }) => {
    const value = make("dd");
    return { root: make("div", {}, make("dt", {}, label), value), update: ({ was, is }) => setText(value, `${was} → ${is}`) };
  });
  const all = (part) => [...part.backends.values()].reduce((sum, value) => sum + value, 0);
  const [allBefore, allSince] = [all(earlier), all(since)];
  const shifts = data.backends.map((one) => ({
    name: one.name,
    tone: tones.get(one.name) ?? "",
    was: allBefore ? (earlier.backends.get(one.name) ?? 0) / allBefore : 0,
    is: allSince ? (since.backends.get(one.name) ?? 0) / allSince : 0,
  }));
  keep(byId("shifts"), shifts, (one) => one.name, ({ name: backend }) => {
    const bar = (label) => {
      const fill = make("span", {});
      const text = make("b");
      return { fill, text, root: make("div", { class: "shift-bar" }, make("span", { class: "muted" }, label), make("div", { class: "track", "aria-hidden": "true" }, fill), text) };
    };
    const [was, is] = [bar("before"), bar("since")];
    const swatch = make("span", { "aria-hidden": "true" });
    const root = make("li", {}, make("p", { class: "shift-name" }, swatch, backend), was.root, is.root);
    return {
      root,
      update(one) {
        setAttribute(swatch, "class", `swatch ${one.tone}`);
        for (const [part, share] of [[was, one.was], [is, one.is]]) {
          setAttribute(part.fill, "class", one.tone);
          part.fill.style.setProperty("transform", `scaleX(${share.toFixed(3)})`);
          setText(part.text, percent(share, 1));
        }
      },
    };
  });
}

// --- what happened

function compareFacts(data) {
  const now = {
    backends: new Map(data.backends.map((one) => [one.name, one.breaker_open ? "breaker open" : one.health])),
    members: new Map(data.members.map((one) => [one.node, one.live])),
    errors: data.totals.errors,
    fallbacks: data.totals.fallbacks,
  };
  if (before) {
    for (const [name, health] of now.backends) {
      const was = before.backends.get(name);
      if (was && was !== health) tell(health === "healthy" ? "ok" : "bad", `${name} is ${health} (was ${was})`);
    }
    for (const [node, live] of now.members) {
      if (before.members.has(node) && before.members.get(node) !== live) tell(live ? "ok" : "bad", `Router ${node} is ${live ? "heard again" : "no longer heard"}`);
    }
    const more = now.fallbacks - before.fallbacks;
    if (more > 0) tell("warn", `${count(more)} ${more === 1 ? "request" : "requests"} served by a second backend after a first one failed`);
    const errors = now.errors - before.errors;
    if (errors > 0) tell("bad", `${count(errors)} ${errors === 1 ? "request" : "requests"} not answered in full`);
  }
  before = now;
}

function tell(level, text) {
  const story = byId("story");
  byId("story-empty").hidden = true;
  story.prepend(make("li", { "data-level": level }, make("time", { class: "muted" }, timeOfDay(Date.now())), make("span", {}, text)));
  while (story.children.length > STORY_MAX) story.lastElementChild.remove();
}
