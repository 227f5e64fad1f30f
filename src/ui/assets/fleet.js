// The fleet by cloud and region: each backend with the facts that count and what peers say of it.

import { byId, keep, make, setAttribute, setText } from "./dom.js";
import { STALE_MS, age, count, dollars, duration, rate } from "./format.js";

const CLOUDS = { aws: "AWS", gcp: "Google Cloud", azure: "Azure" };

/** Draws the map. */
export function drawFleet(data, tones) {
  const backends = data.backends.map((one) => ({ ...one, tone: tones.get(one.name) ?? "" }));
  const external = backends.filter((one) => !one.cluster);
  setAttribute(byId("fleet"), "aria-busy", "false");
  keep(byId("fleet"), regionsOf(backends, data.members), (group) => group.key, createGroup);
  keep(byId("fleet-external"), external.length ? [providersOf(external)] : [], (group) => group.key, createGroup);
}

/** Clusters by cloud and region in order of the configuration, then routers without clusters. */
function regionsOf(backends, members) {
  const groups = new Map();
  const group = (region, title) => {
    if (!groups.has(region)) groups.set(region, { key: region, title, place: region, backends: [], members: [] });
    return groups.get(region);
  };
  for (const one of backends.filter((backend) => backend.cluster)) {
    group(one.region, CLOUDS[one.provider] ?? one.provider).backends.push(one);
  }
  for (const one of members) group(one.region, "Router only").members.push(one);
  return [...groups.values()];
}

const providersOf = (backends) => ({ key: "providers", title: "Providers", place: "external, paid by the token", backends });

function createGroup({ title, place }) {
  const router = make("p", { class: "group-router" });
  const list = make("ul", { class: "backends" });
  const root = make(
    "section",
    { class: "group" },
    make("header", { class: "group-head" }, make("h3", {}, title), make("p", { class: "muted" }, place)),
    router,
    list,
  );
  return {
    root,
    update({ members, backends }) {
      const dead = (members ?? []).filter((one) => !one.live);
      let text = members ? "no router heard of" : "asked from every region";
      let level = "none";
      if (members?.length) {
        level = dead.length ? "bad" : "ok";
        const state = dead.length ? (dead.length === members.length ? "not heard" : `${dead.length} not heard`) : "live";
        const here = members.some((one) => one.this_node) ? ", this one" : "";
        text = members.length === 1 ? `router ${state}${here}` : `${members.length} routers ${state}${here}`;
      }
      setText(router, text);
      setAttribute(router, "data-level", level);
      keep(list, backends, (one) => one.name, createBackend);
    },
  };
}

function createBackend({ name }) {
  const swatch = make("span", { "aria-hidden": "true" });
  const health = make("span", { class: "badge" });
  const models = make("p", { class: "backend-models" });
  const load = make("span");
  const meter = make("div", { class: "meter", role: "img" }, make("span"));
  const cells = Object.fromEntries(
    [["queue", "queue"], ["speed", "tok/s"], ["price", "$ / 1K"], ["latency", "p95 TTFT"]].map(([key, label]) => {
      const value = make("dd");
      return [key, { value, root: make("div", {}, make("dt", {}, label), value) }];
    }),
  );
  const source = make("p", { class: "source" });
  const summary = make("summary");
  const peers = make("ul", { class: "peers" });
  const details = make("details", { class: "peer-box" }, summary, peers);
  const root = make(
    "li",
    { class: "backend" },
    make("div", { class: "backend-head" }, swatch, make("h4", { title: name }, name), health),
    models,
    make("div", { class: "load" }, make("span", { class: "load-label" }, "in flight"), meter, load),
    make("dl", { class: "cells" }, ...Object.values(cells).map((cell) => cell.root)),
    make("div", { class: "backend-foot" }, source, details),
  );
  return {
    root,
    update(one) {
      setAttribute(swatch, "class", `swatch ${one.tone}`);
      setText(health, one.breaker_open ? "breaker open" : one.health);
      setAttribute(health, "data-health", one.breaker_open ? "unhealthy" : one.health);
      setText(models, one.models.length ? one.models.join(", ") : "models not known yet");
      setAttribute(models, "title", models.textContent);
      const full = one.limit > 0 ? Math.min(1, one.in_flight / one.limit) : 0;
      meter.firstChild.style.setProperty("transform", `scaleX(${full.toFixed(3)})`);
      setAttribute(meter, "data-full", one.limit > 0 && one.in_flight >= one.limit ? "yes" : "no");
      setAttribute(meter, "aria-label", `${one.in_flight} of ${one.limit} slots`);
      setText(load, one.limit > 0 ? `${count(one.in_flight)} / ${count(one.limit)}` : count(one.in_flight));
      setText(cells.queue.value, one.waiting ? `${count(one.queue_depth)} + ${count(one.waiting)}` : count(one.queue_depth));
      setAttribute(cells.queue.root, "title", `${one.queue_depth} waiting at the backend, ${one.waiting} waiting in this router`);
      setText(cells.speed.value, rate(one.tokens_per_second));
      setText(cells.price.value, dollars(one.cost_per_1k_usd));
      setText(cells.latency.value, duration(one.latency_p95_ms));
      drawSource(source, one);
      drawPeers(summary, peers, details, one);
    },
  };
}

function drawSource(source, { fact_age_ms: ms, said_by: peer }) {
  const who = peer ? "told by a peer" : "own facts";
  setText(source, ms === null ? "nothing known yet" : `${who}, ${age(ms)} old`);
  setAttribute(source, "title", peer ? `${peer} said so; this router has not probed it yet` : "observed by this router itself");
  setAttribute(source, "data-age", ms === null ? "unknown" : ms > STALE_MS ? "old" : "fresh");
}

function drawPeers(summary, list, details, one) {
  const all = one.peers.length;
  const against = one.peers.filter((peer) => peer.health !== one.health).length;
  setText(summary, all === 0 ? "no peer facts" : against ? `${against} of ${all} peers disagree` : `${all} ${all === 1 ? "peer agrees" : "peers agree"}`);
  setAttribute(summary, "data-level", against ? "warn" : null);
  setAttribute(details, "data-empty", all ? "no" : "yes");
  keep(list, one.peers, (peer) => peer.node, ({ node }) => {
    const facts = make("span", { class: "peer-facts" });
    const root = make("li", {}, make("span", { class: "peer-name", title: node }, node), facts);
    return {
      root,
      update(peer) {
        setText(facts, `${peer.health}, ${count(peer.queue_depth)} waiting, ${age(peer.age_ms)} ago`);
        setAttribute(facts, "data-age", peer.age_ms > STALE_MS ? "old" : "fresh");
      },
    };
  });
}
