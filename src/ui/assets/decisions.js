// Decisions as they come, newest first, bounded by what the router keeps.

import { byId, keep, make, setAttribute, setText } from "./dom.js";
import { openRecord } from "./record.js";
import { UNKNOWN, count, dollars, duration, explain, timeOfDay } from "./format.js";

const FLASH_MAX = 12;
const NOTE = "newest first; choose one for its record";

let paused = false;
let drawnOnce = false;
let latest = [];
let total = null;

/** Wires the pause button. */
export function startDecisions() {
  const button = byId("decisions-pause");
  button.addEventListener("click", () => {
    paused = !paused;
    setAttribute(button, "aria-pressed", String(paused));
    setText(button, paused ? "Resume" : "Pause");
    if (!paused) setText(byId("decisions-note"), NOTE);
  });
  // One listener for all rows: they come and go by the second.
  byId("decisions").addEventListener("click", (event) => {
    const id = event.target.closest("tr")?.dataset.id;
    if (id) openRecord(id);
  });
}

/** Draws the list, or counts what comes while it is paused. */
export function drawDecisions({ decisions, totals }, tones) {
  const came = totals.requests - (total ?? totals.requests);
  total = totals.requests;
  if (paused) {
    const seen = new Set(latest.map((one) => one.id));
    const fresh = decisions.filter((one) => !seen.has(one.id)).length;
    setText(byId("decisions-note"), `paused, ${fresh === decisions.length ? `${fresh} or more` : fresh} new`);
    return;
  }
  const empty = byId("decisions-empty");
  empty.hidden = decisions.length > 0;
  setText(empty, "No decisions yet. Send a prompt from the playground, or POST to /v1/chat/completions.");
  const shown = new Set(latest.map((one) => one.id));
  const fresh = decisions.filter((one) => !shown.has(one.id)).length;
  // More came than a person could read, or the router lists: the rest is in the count.
  setText(byId("decisions-note"), came > decisions.length ? `the newest ${decisions.length} of ${count(came)} since the last look` : NOTE);
  // A flood needs no highlight, and painting one would cost more than drawing it.
  const flash = drawnOnce && fresh <= FLASH_MAX;
  keep(byId("decisions"), decisions, (one) => one.id, (one) => createRow(one, tones, flash));
  drawnOnce = true;
  latest = decisions;
}

/** A finished decision never changes: the row is filled once. */
function createRow(one, tones, flash) {
  const good = one.status < 400;
  const backend = one.backend ?? "none";
  const reason = one.reason ?? "no backend";
  const swatch = make("span", { class: `swatch ${tones.get(backend) ?? ""}`, "aria-hidden": "true" });
  const root = make(
    "tr",
    { class: flash ? "fresh" : "", "data-id": one.id },
    make("td", { class: "c-time" }, make("button", { type: "button", class: "open", "aria-label": `Record of the decision at ${timeOfDay(one.unix_ms)} for ${backend}` }, timeOfDay(one.unix_ms))),
    make("td", { class: "c-model", title: one.model }, one.model),
    make("td", { class: "c-backend", title: backend }, swatch, backend, make("span", { class: "under", "aria-hidden": "true" }, reason)),
    make("td", { class: "c-reason", title: explain(one.reason) }, reason),
    make("td", { class: "c-strategy" }, one.strategy),
    make("td", { class: "c-num c-small", "data-level": one.attempts > 1 ? "warn" : "none" }, count(one.attempts)),
    make("td", { class: "c-small" }, make("span", { class: "status", "data-level": good ? "ok" : "bad" }, String(one.status))),
    make("td", { class: "c-num" }, duration(one.ttft_ms)),
    make("td", { class: "c-num c-total" }, duration(one.duration_ms)),
    make("td", { class: "c-num c-tokens" }, `${count(one.input_tokens)} / ${count(one.output_tokens)}`),
    make("td", { class: "c-num c-cost" }, one.cost_usd === null ? UNKNOWN : dollars(one.cost_usd)),
  );
  return { root, update() {} };
}
