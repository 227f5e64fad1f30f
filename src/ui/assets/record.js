// The record of one decision: why this backend, what the others would have cost, who was refused.

import { routePath } from "./ask.js";
import { byId, make, setText } from "./dom.js";
import { UNKNOWN, age, count, dollars, duration, explain, percent, timeOfDay } from "./format.js";

let asked = 0;

/** Wires the dialog. */
export function startRecord() {
  const dialog = byId("record");
  byId("record-close").addEventListener("click", () => dialog.close());
  // A click beside the dialog lands on the dialog itself.
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

/** Opens the record of `id`, as the router of `region` has it (this one where empty). */
export async function openRecord(id, region = "") {
  const body = byId("record-body");
  const mine = ++asked;
  setText(byId("record-title"), `Decision ${id}`);
  body.replaceChildren(make("p", { class: "empty" }, "Reading the record…"));
  if (!byId("record").open) byId("record").showModal();
  const shown = await readRecord(id, region).then(drawRecord, (error) => [make("p", { class: "answer-note", "data-level": "bad" }, error.message)]);
  if (mine === asked) body.replaceChildren(...shown);
}

/** The record of `id`; throws in words. */
export async function readRecord(id, region = "") {
  const path = routePath(region, `ui/decisions/${encodeURIComponent(id)}`);
  const response = await fetch(path, { headers: { "x-llm-router-page": "1" }, cache: "no-store", signal: AbortSignal.timeout(5000) }).catch(() => {
    throw new Error("The router could not be reached.");
  });
  if (response.ok) return response.json();
  const told = await response.json().catch(() => null);
  throw new Error(told?.error?.message ?? `The router answered ${response.status}.`);
}

function drawRecord(one) {
  const saved = one.cost_usd !== null && one.external_cost_usd !== null ? one.external_cost_usd - one.cost_usd : null;
  const summary = one.backend
    ? `${one.backend} ${one.outcome === "served" ? "answered" : "was asked last"} with ${one.backend_model ?? "an unknown model"}: ${explain(one.reason) || one.reason}.`
    : "No backend answered.";
  const facts = list([
    ["Outcome", `${one.outcome}, status ${one.status}`],
    ["Reason", one.reason ?? "none"],
    ["Strategy", one.strategy],
    ["Model asked", one.model],
    ["When", timeOfDay(one.unix_ms)],
    ["First token", duration(one.ttft_ms)],
    ["Total", duration(one.duration_ms)],
    ["Tokens", `${count(totalInput(one.usage))} in, ${count(one.usage.output)} out${one.usage_estimated ? ", estimated" : ""}`],
    ["Cost", one.cost_usd === null ? "unpriced" : dollars(one.cost_usd)],
    ["Predicted", dollars(one.predicted_cost_usd)],
    ["At the cheapest provider", dollars(one.external_cost_usd)],
    ["Saved (gross)", dollars(saved)],
  ]);
  const parts = [make("p", { class: "record-why" }, summary), facts];
  if (one.error) parts.push(make("p", { class: "answer-note", "data-level": "bad" }, one.error));
  if (one.attempts.length > 1 || one.attempts.some((attempt) => attempt.fault || attempt.via)) {
    parts.push(heading("Attempts"), make("ol", { class: "lines" }, ...one.attempts.map(attemptLine)));
    if (one.stopped) parts.push(make("p", { class: "muted" }, `no further backend was tried: ${words(one.stopped)}`));
  }
  if (one.candidates.length) {
    parts.push(heading("Candidates, in the order they would be asked"), candidateTable(one.candidates.map(ofStep), one.backend));
  }
  if (one.refused.length) parts.push(heading("Refused"), refusedList(one.refused.map(([backend, refusal]) => ({ backend, text: refusalText(refusal) }))));
  const others = [
    ...(one.passed_over ?? []).map((passed) => `${passed.backend} had no place: ${passed.why}`),
    ...(one.experiments ?? []).map((arm) => `in experiment ${arm}`),
    ...(one.wanted ? [`would have gone to ${one.wanted}, which sleeps`] : []),
    ...(one.shadow ? [`a shadow copy (${one.shadow}) of ${one.shadow_of}`] : []),
    ...(one.not_looked_at?.length ? [`not looked at: ${one.not_looked_at.join(", ")}`] : []),
  ];
  if (others.length) parts.push(heading("What else bore on it"), make("ul", { class: "lines" }, ...others.map((text) => make("li", {}, text))));
  return parts;
}

const heading = (text) => make("h3", { class: "sub-head" }, text);
const words = (label) => String(label).replaceAll("_", " ");
const totalInput = (usage) => usage.input + usage.cached_read + usage.cache_write + (usage.cache_write_1h ?? 0);

function attemptLine({ backend, model, waited_ms: waited, fault, via, hedge }) {
  const notes = [waited ? `waited ${duration(waited)}` : "", via ? `by way of ${via}` : "", hedge ? `hedge ${hedge}` : ""].filter(Boolean).join(", ");
  const outcome = fault ? make("span", { class: "status", "data-level": "bad" }, fault) : make("span", { class: "status", "data-level": "ok" }, "answered");
  return make("li", {}, make("b", {}, backend), ` (${model})${notes ? `, ${notes}` : ""}: `, outcome);
}

/** A pair list. */
export function list(pairs) {
  return make("dl", { class: "route" }, ...pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", { title: value }, value))));
}

const ofStep = (step) => ({
  backend: step.backend,
  model: step.model,
  reason: step.reason,
  cost: step.predicted_cost_usd,
  ttft: step.predicted_ttft_ms,
  age: step.fact_age_ms,
  score: step.score ?? null,
  terms: step.terms ?? [],
});

/** What an explanation says of a candidate, as a record does. */
export const ofCandidate = (one) => ({
  backend: one.backend,
  model: one.model,
  reason: one.reason,
  cost: one.predicted_cost_usd,
  ttft: one.predicted_ttft_ms,
  age: one.facts?.age_ms ?? null,
  score: one.score ?? null,
  terms: one.terms ?? [],
});

/** Candidates with their predicted cost, compared with that of the chosen one. */
export function candidateTable(candidates, chosen) {
  const base = candidates.find((one) => one.backend === chosen)?.cost ?? candidates[0]?.cost ?? null;
  const withTerms = candidates.some((one) => one.terms.length);
  const head = ["#", "Backend", "Reason", "Score", "Would cost", "Compared", "First token", "Fact age", ...(withTerms ? ["Score terms"] : [])];
  const rows = candidates.map((one, index) => {
    const own = one.backend === (chosen ?? candidates[0]?.backend);
    const more = own ? "chosen" : one.cost === null || !base ? UNKNOWN : `${one.cost >= base ? "+" : "−"}${percent(Math.abs(one.cost - base), base)}`;
    const terms = one.terms.length
      ? make("details", { class: "terms" }, make("summary", {}, `${one.terms.length} terms`), make("ul", {}, ...one.terms.map((term) => make("li", {}, `${words(term.name)} `, make("b", {}, termValue(term))))))
      : UNKNOWN;
    return make(
      "tr",
      own ? { class: "chosen" } : {},
      make("td", { class: "c-num" }, String(index + 1)),
      make("td", {}, make("b", {}, one.backend), make("span", { class: "muted model-of" }, one.model)),
      make("td", { class: "c-reason", title: explain(one.reason) }, one.reason),
      make("td", { class: "c-num", title: scoreTitle(one.score) }, scoreText(one.score)),
      make("td", { class: "c-num" }, dollars(one.cost)),
      make("td", { class: "c-num" }, more),
      make("td", { class: "c-num" }, duration(one.ttft)),
      make("td", { class: "c-num" }, age(one.age)),
      ...(withTerms ? [make("td", {}, terms)] : []),
    );
  });
  const header = make("thead", {}, make("tr", {}, ...head.map((text, at) => make("th", { scope: "col", class: [0, 3, 4, 5, 6, 7].includes(at) ? "c-num" : "" }, text))));
  const table = make("table", { class: "plain candidates" }, header, make("tbody", {}, ...rows));
  return make("div", { class: "scroll-x", role: "region", "aria-label": "Candidates", tabindex: "0" }, table);
}

/** What the strategy compared, as one number: the lowest is tried first. */
function scoreText(score) {
  return score ? termValue(score) : UNKNOWN;
}

/** What adds up to it. */
function scoreTitle(score) {
  const terms = Object.entries(score?.terms ?? {});
  return terms.map(([name, value]) => `${words(name)} ${termValue({ value, unit: score.unit })}`).join(" + ");
}

function termValue({ value, unit }) {
  if (unit === "USD") return dollars(value);
  if (unit === "ms") return duration(value);
  if (unit === "yes/no") return value ? "yes" : "no";
  return `${Number(value.toPrecision(4))} ${unit}`;
}

/** Who could not serve it, and why. */
export function refusedList(refused) {
  return make("ul", { class: "lines" }, ...refused.map(({ backend, text, cost }) => make("li", {}, make("b", {}, backend), `: ${text}`, cost ? `; would have cost ${dollars(cost)}` : "")));
}

function refusalText({ why, text, ...rest }) {
  if (text) return text;
  const more = Object.entries(rest).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value));
  return words(why) + (more.length ? ` (${more.map(([name, value]) => `${words(name)} ${value}`).join(", ")})` : "");
}
