// The playground: a conversation through this or another region's router, streamed; an explanation
// without running; the same prompt by every strategy.

import { createAnswer } from "./answer.js";
import { bodyOf, errorText, headersOf, routePath, wordsOf } from "./ask.js";
import { byId, make, setText } from "./dom.js";
import { candidateTable, list, ofCandidate, refusedList } from "./record.js";
import { isShown, onView } from "./views.js";

const SAMPLES = [
  "What is the capital of Portugal? Answer in one sentence.",
  "Write a Rust function that merges two sorted vectors, with a short test.",
  "A service runs in three clouds. Compare keeping its request queue in the client, in the router and in the backend: "
    + "what happens to tail latency, to fairness between tenants and to cost when one region slows down? Give a table and a recommendation.",
];
const MODELS_EVERY_MS = 10000;
/** Turns of a conversation that are sent along; older ones stay on the page only. */
const TURNS_SENT = 12;

let running = null;
let conversation = [];
let simulated = true;
let own = "";

/** Wires the form. */
export function startPlayground() {
  const prompt = byId("ask-prompt");
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    exclusively(send);
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
  });
  byId("ask-stop").addEventListener("click", () => running?.abort());
  byId("ask-explain").addEventListener("click", () => byId("ask").reportValidity() && exclusively(explainOnly));
  byId("ask-compare").addEventListener("click", startCompare);
  byId("ask-new").addEventListener("click", () => {
    running?.abort();
    conversation = [];
    byId("turns").replaceChildren(byId("turns-empty"));
    byId("turns-empty").hidden = false;
    prompt.focus();
  });
  byId("samples").querySelectorAll("button").forEach((button, index) => {
    button.addEventListener("click", () => {
      prompt.value = SAMPLES[index];
      prompt.focus();
    });
  });
  onView((name) => name === "playground" && readModels());
  setInterval(() => document.hidden || !isShown("playground") || readModels(), MODELS_EVERY_MS);
}

/** What the playground must know of the router. */
export function tellPlayground(data) {
  simulated = data.simulated;
  own = data.region;
  setText(byId("playground-note"), simulated ? "a real route to a simulated answer" : "real requests, at real cost");
  setText(byId("ask-region").options[0], own || "this router");
}

/** The other regions that can be asked from this page. */
export function offerRegions(regions) {
  const select = byId("ask-region");
  const names = regions.map((one) => one.region).filter((name) => name !== own);
  const known = [...select.options].slice(1).map((option) => option.value);
  if (names.join("\n") === known.join("\n")) return;
  select.replaceChildren(select.options[0], ...names.map((name) => make("option", { value: name }, name)));
}

async function readModels() {
  const select = byId("ask-model");
  if (document.activeElement === select) return;
  try {
    const response = await fetch("/v1/models", { headers: headersOf({}), signal: AbortSignal.timeout(4000) });
    if (!response.ok) return;
    const names = (await response.json()).data.map((model) => String(model.id)).filter((name) => name !== "auto");
    const chosen = select.value;
    const known = [...select.options].slice(1).map((option) => option.value);
    if (names.join("\n") === known.join("\n")) return;
    select.replaceChildren(select.options[0], ...names.map((name) => make("option", { value: name }, name)));
    select.value = names.includes(chosen) ? chosen : "auto";
  } catch {
    // The banner already says that the router does not answer.
  }
}

const asked = (messages) => ({
  region: byId("ask-region").value,
  model: byId("ask-model").value,
  strategy: byId("ask-strategy").value,
  messages,
});

/** One thing at a time; Stop ends it. */
async function exclusively(work) {
  const prompt = byId("ask-prompt").value.trim();
  if (running || !prompt) return;
  const control = new AbortController();
  running = control;
  busy(true);
  try {
    await work(prompt, control.signal);
  } finally {
    running = null;
    busy(false);
  }
}

function busy(is) {
  for (const id of ["ask-send", "ask-explain", "ask-compare"]) byId(id).disabled = is;
  byId("ask-stop").disabled = !is;
}

async function send(prompt, signal) {
  const turns = byId("turns");
  byId("turns-empty").hidden = true;
  const answer = createAnswer(turns);
  turns.append(make("article", { class: "turn" }, make("p", { class: "question" }, prompt), answer.root));
  turns.scrollTop = turns.scrollHeight;
  setText(byId("answer-status"), "Waiting for the first token");
  const field = byId("ask-prompt");
  field.value = "";
  const question = { role: "user", content: prompt };
  const whole = await answer.run(asked([...conversation, question]), signal);
  if (whole !== null) {
    conversation = [...conversation, question, { role: "assistant", content: whole }].slice(-TURNS_SENT);
  } else if (!field.value) {
    // What was not answered can be sent again.
    field.value = prompt;
  }
  setText(byId("answer-status"), whole === null ? "No whole answer" : "Answer complete");
}

async function explainOnly(prompt, signal) {
  const panel = byId("explained");
  const body = byId("explained-body");
  const request = asked([...conversation, { role: "user", content: prompt }]);
  panel.hidden = false;
  try {
    const response = await fetch(routePath(request.region, "ui/explain"), { method: "POST", headers: headersOf(request), body: bodyOf(request), signal });
    if (!response.ok) throw new Error(await errorText(response));
    const told = await response.json();
    const parts = [
      make("p", { class: "record-why" }, told.summary.replaceAll("`", "")),
      list([["Strategy", told.strategy], ["Model", told.model], ["Input tokens", `≈ ${told.input_tokens}`], ["Output tokens", `≈ ${told.output_tokens}`]]),
    ];
    if (told.candidates.length) parts.push(candidateTable(told.candidates.map(ofCandidate), null));
    if (told.refused.length) {
      parts.push(make("h3", { class: "sub-head" }, "Refused"), refusedList(told.refused.map((one) => ({ backend: one.backend, text: one.text, cost: one.would_cost_usd }))));
    }
    for (const arm of told.experiments ?? []) parts.push(make("p", { class: "muted" }, `in experiment ${arm}`));
    body.replaceChildren(...parts);
  } catch (error) {
    body.replaceChildren(make("p", { class: "answer-note", "data-level": "bad" }, signal.aborted ? "Stopped." : wordsOf(error)));
  }
  byId("explained-title").focus();
}

/** Six requests at once cost six times as much: where that is real money, one asks twice. */
function startCompare() {
  const button = byId("ask-compare");
  if (!byId("ask").reportValidity() || running) return;
  if (!simulated && button.dataset.sure !== "yes") {
    button.dataset.sure = "yes";
    setText(button, "Run them all, at real cost?");
    return;
  }
  button.dataset.sure = "no";
  setText(button, "All strategies side by side");
  exclusively(compare);
}

async function compare(prompt, signal) {
  const strategies = [...byId("ask-strategy").options].map((option) => option.value).filter(Boolean);
  const messages = [...conversation, { role: "user", content: prompt }];
  byId("compared").hidden = false;
  setText(byId("compared-note"), `${strategies.length} requests at the same time`);
  const runs = strategies.map((strategy) => {
    const answer = createAnswer(null);
    const column = make("li", { class: "column", "data-strategy": strategy }, make("h3", {}, strategy), answer.root);
    return { column, run: () => answer.run({ ...asked(messages), strategy }, signal) };
  });
  byId("compared-columns").replaceChildren(...runs.map((one) => one.column));
  byId("compared-title").focus();
  const whole = await Promise.all(runs.map((one) => one.run()));
  const done = whole.filter((text) => text !== null).length;
  setText(byId("compared-note"), `${done} of ${strategies.length} answered in full`);
}
