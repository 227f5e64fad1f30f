// The fleet by cloud and region: each backend with the facts that count and what peers say of it.

import { byId, keep, make, setAttribute, setText } from "./dom.js";
import { STALE_MS, age, count, dollars, duration, rate } from "./format.js";

const CLOUDS = { aws: "AWS", gcp: "Google Cloud", azure: "Azure" };

/** Draws the map. */
export function drawFleet(data, tones) {
  const fleet = byId("fleet");
  setAttribute(fleet, "aria-busy", "false");
  keep(fleet, groupsOf(data), (group) => group.key, createGroup);
  for (const root of fleet.querySelectorAll(".backend")) {
    setAttribute(root.querySelector(".swatch"), "class", `swatch ${tones.get(root.dataset.name) ?? ""}`);
  }
}

/** Clusters by cloud and region in order of the configuration, then the providers, then routers without clusters. */
function groupsOf({ backends, members }) {
  const groups = new Map();
  const group = (key, title, place) => {
    if (!groups.has(key)) groups.set(key, { key, title, place, backends: [], members: [] });
    return groups.get(key);
  };
  for (const one of backends.filter((backend) => backend.cluster)) {
    group(`region ${one.region}`, CLOUDS[one.provider] ?? one.provider, one.region).backends.push(one);
  }
  for (const one of members) {
    group(`region ${one.region}`, "Router only", one.region).members.push(one);
  }
  for (const one of backends.filter((backend) => !backend.cluster)) {
    group("external", "Providers", "external, paid by token").backends.push(one);
  }
  return [...groups.values()];
}

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
    update({ key, members, backends }) {
      const dead = members.filter((one) => !one.live);
      let text = "no router heard of";
      let level = "none";
      if (key === "external") {
        text = "asked from every region";
      } else if (members.length) {
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
    { class: "backend", "data-name": name },
    make("div", { class: "backend-head" }, make("span", { class: "swatch", "aria-hidden": "true" }), make("h4", { title: name }, name), health),
    models,
    make("div", { class: "load" }, make("span", { class: "load-label" }, "in flight"), meter, load),
    make("dl", { class: "cells" }, ...Object.values(cells).map((cell) => cell.root)),
    make("div", { class: "backend-foot" }, source, details),
  );
  return {
    root,
    update(one) {
      setText(health, one.breaker_open ? "breaker open" : one.health);
      setAttribute(health, "data-health", one.breaker_open ? "unhealthy" : one.health);
      setText(models, one.models.length ? one.models.join(", ") : "models not known yet");
      setAttribute(models, "title", models.textContent);
      const full = one.limit > 0 ? Math.min(1, one.in_flight / one.limit) : 0;
      meter.firstChild.style.setProperty("inline-size", `${(full * 100).toFixed(1)}%`);
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
