// The four headline cards.

import { spark } from "./charts.js";
import { byId, keep, make, setAttribute, setText } from "./dom.js";
import { count, counted, dollars, duration, percent } from "./format.js";

const HISTORY = 60;
const RECENT_MS = 10000;
const perSecond = [];
const recent = [];
let before = null;
let sparks = null;

/** Makes the small curves; call it once the chart library is there. */
export function startHeadline() {
  sparks = { requests: spark(byId("h-requests-spark"), HISTORY), latency: spark(byId("h-latency-spark"), HISTORY) };
}

/** Draws the cards. */
export function drawHeadline(data) {
  drawRequests(data);
  drawSaved(data.totals);
  drawLatency(data);
  drawClusters(data);
}

function drawRequests({ totals, now_unix_ms: now }) {
  if (before && now > before.now && totals.requests >= before.requests) {
    remember(perSecond, ((totals.requests - before.requests) * 1000) / (now - before.now));
  }
  before = { now, requests: totals.requests };
  setText(byId("h-requests"), count(totals.requests));
  const failed = `${count(totals.errors)} not answered in full, ${counted(totals.fallbacks, "fallback")}`;
  setText(byId("h-requests-sub"), failed);
  setAttribute(byId("h-requests-sub"), "data-level", totals.errors > 0 ? "bad" : null);
  sparks?.requests?.(perSecond);
  const last = perSecond.slice(-10);
  const mean = last.length ? last.reduce((sum, value) => sum + value, 0) / last.length : 0;
  setText(byId("h-requests-foot"), `${mean.toFixed(1)} per second, ${count(totals.in_flight)} in flight`);
}

function drawSaved({ cost_usd: cost, external_equivalent_usd: external, saved_usd: saved }) {
  setText(byId("h-saved"), dollars(saved));
  setText(byId("h-saved-sub"), `${dollars(cost)} spent; external price ${dollars(external)}`);
  // Only requests with an external alternative are in both figures: what those cost is the difference.
  const theirs = external - saved;
  const share = external > 0 ? Math.min(1, Math.max(0, theirs / external)) : 0;
  const bar = byId("h-saved-bar");
  bar.firstElementChild.style.setProperty("transform", `scaleX(${share.toFixed(3)})`);
  const text = external > 0 ? `cost ${percent(theirs, external)} of what providers would have charged` : "no spend yet";
  setAttribute(bar, "aria-label", text);
  setAttribute(bar, "title", text);
}

function drawLatency({ totals, decisions, now_unix_ms: now }) {
  const durations = decisions.filter((one) => now - one.unix_ms < RECENT_MS).map((one) => one.duration_ms);
  const mean = durations.length ? durations.reduce((sum, ms) => sum + ms, 0) / durations.length : null;
  remember(recent, mean);
  setText(byId("h-latency"), duration(totals.latency_avg_ms));
  setText(byId("h-latency-sub"), `${duration(totals.ttft_avg_ms)} to the first token`);
  sparks?.latency?.(recent);
  setText(byId("h-latency-foot"), mean === null ? "nothing in the last 10 s" : `${duration(mean)} over the last 10 s`);
}

function drawClusters(data) {
  setText(byId("h-clusters"), `${count(data.clusters_active)} / ${count(data.clusters_total)}`);
  setText(byId("h-clusters-sub"), `${count(data.providers_healthy)} of ${counted(data.providers_total, "provider")} healthy`);
  keep(byId("h-clusters-dots"), data.backends, (one) => one.name, (one) => {
    const root = make("li", { class: "dot" }, make("span", { class: "visually-hidden" }));
    return {
      root,
      update({ name, health, cluster }) {
        const text = `${name}: ${health}`;
        setAttribute(root, "data-health", health);
        setAttribute(root, "data-kind", cluster ? "cluster" : "provider");
        setAttribute(root, "title", text);
        setText(root.firstChild, text);
      },
    };
  });
  const live = data.members.filter((one) => one.live).length;
  setText(byId("h-clusters-foot"), `${live} of ${counted(data.members.length, "router")} live`);
}

function remember(list, value) {
  list.push(value);
  if (list.length > HISTORY) list.shift();
}
