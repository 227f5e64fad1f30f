// The playground: a real request through this router's public API, streamed, with its route below.

import { byId, make, setAttribute, setText } from "./dom.js";
import { UNKNOWN, count, dollars, duration, explain } from "./format.js";

const SAMPLES = [
  "What is the capital of Portugal? Answer in one sentence.",
  "Write a Rust function that merges two sorted vectors, with a short test.",
  "A service runs in three clouds. Compare keeping its request queue in the client, in the router and in the backend: "
    + "what happens to tail latency, to fairness between tenants and to cost when one region slows down? Give a table and a recommendation.",
];
const MODELS_EVERY_MS = 10000;
const ANSWER_LIMIT = 100000;

let running = null;
let shown = null;

/** Wires the form. */
export function startPlayground() {
  const prompt = byId("ask-prompt");
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
  });
  byId("ask-stop").addEventListener("click", () => running?.abort());
  byId("samples").querySelectorAll("button").forEach((button, index) => {
    button.addEventListener("click", () => {
      prompt.value = SAMPLES[index];
      prompt.focus();
    });
  });
  readModels();
  setInterval(() => document.hidden || readModels(), MODELS_EVERY_MS);
}

/** Puts the settled figures of the shown decision in place of the predicted ones, once they are known. */
export function settlePlayground({ decisions }) {
  if (!shown) return;
  const settled = decisions.find((one) => one.id === shown);
  if (!settled) return;
  fact("cost", settled.cost_usd === null ? "unpriced" : dollars(settled.cost_usd));
  fact("tokens", `${count(settled.input_tokens)} in, ${count(settled.output_tokens)} out`);
  fact("attempts", count(settled.attempts));
  shown = null;
}

async function readModels() {
  const select = byId("ask-model");
  if (document.activeElement === select) return;
  try {
    const response = await fetch("/v1/models", { headers: credentials(), signal: AbortSignal.timeout(4000) });
    if (!response.ok) return;
    const names = (await response.json()).data.map((model) => String(model.id)).filter((name) => name !== "auto");
    const chosen = select.value;
    const known = [...select.options].slice(1).map((option) => option.value);
    if (names.join("\n") === known.join("\n")) return;
    select.replaceChildren(select.options[0], ...names.map((name) => make("option", { value: name }, name)));
    select.value = names.includes(chosen) ? chosen : "auto";
  } catch {
    // The link state in the header already says that the router does not answer.
  }
}

function credentials() {
  const key = byId("ask-key").value.trim();
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function send() {
  const prompt = byId("ask-prompt").value.trim();
  if (running || !prompt) return;
  const control = new AbortController();
  running = control;
  shown = null;
  const answer = startAnswer();
  const started = performance.now();
  try {
    const strategy = byId("ask-strategy").value;
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json", ...(strategy && { "x-llm-router-strategy": strategy }), ...credentials() },
      body: JSON.stringify({
        model: byId("ask-model").value,
        messages: [{ role: "user", content: prompt }],
        stream: true,
        stream_options: { include_usage: true },
        max_tokens: 512,
      }),
      signal: control.signal,
    });
    showRoute(response.headers);
    if (!response.ok) throw new Error(await errorText(response));
    await readStream(response.body, answer, started);
    fact("total", duration(performance.now() - started));
    finish("done", "Answer complete");
  } catch (error) {
    fact("total", duration(performance.now() - started));
    if (control.signal.aborted) {
      answer.note("Stopped. The router cancels the backend's work when a client goes.", "warn");
      finish("stopped", "Stopped");
    } else {
      answer.note(error instanceof TypeError ? "The router could not be reached." : error.message, "bad");
      finish("error", "Failed");
    }
  }
  running = null;
}

function startAnswer() {
  const box = byId("answer");
  const text = document.createTextNode("");
  const body = make("p", { class: "answer-text" }, text);
  box.replaceChildren(body);
  setAttribute(box, "data-state", "waiting");
  setText(byId("answer-status"), "Waiting for the first token");
  byId("ask-send").disabled = true;
  byId("ask-stop").disabled = false;
  for (const cell of byId("route").querySelectorAll("dd")) setText(cell, UNKNOWN);
  setText(byId("route").querySelector("[data-fact=backend]"), "…");
  let pending = "";
  let scheduled = false;
  const flush = () => {
    scheduled = false;
    const follow = box.scrollTop + box.clientHeight >= box.scrollHeight - 24;
    text.appendData(pending.slice(0, Math.max(0, ANSWER_LIMIT - text.length)));
    pending = "";
    if (follow) box.scrollTop = box.scrollHeight;
  };
  return {
    /** Tokens are written once per frame, however fast they come. */
    append(piece) {
      pending += piece;
      if (!scheduled) {
        scheduled = true;
        requestAnimationFrame(flush);
      }
    },
    note(message, level) {
      flush();
      box.append(make("p", { class: "answer-note", "data-level": level }, message));
      box.scrollTop = box.scrollHeight;
    },
  };
}

function finish(state, text) {
  setAttribute(byId("answer"), "data-state", state);
  setText(byId("answer-status"), text);
  byId("ask-send").disabled = false;
  byId("ask-stop").disabled = true;
}

function showRoute(headers) {
  const header = (name) => headers.get(`x-llm-router-${name}`);
  const reason = header("reason");
  const cost = header("cost-usd");
  shown = header("decision");
  fact("backend", header("backend") ?? "none");
  fact("reason", reason ?? UNKNOWN, reason ? explain(reason) : "");
  fact("region", header("region") ?? UNKNOWN);
  fact("attempts", header("attempts") ?? UNKNOWN);
  fact("cost", cost === null || !Number.isFinite(Number(cost)) ? UNKNOWN : `≈ ${dollars(Number(cost))}`, "predicted; settled once the answer is complete");
}

function fact(name, text, title = "") {
  const cell = byId("route").querySelector(`[data-fact=${name}]`);
  setText(cell, text);
  setAttribute(cell, "title", title || text);
}

async function errorText(response) {
  let message = "";
  try {
    message = (await response.json()).error?.message ?? "";
  } catch {
    // Not JSON: the status says what there is to say.
  }
  const hint = response.status === 401 ? " Enter an API key beside the Send button." : "";
  return `Status ${response.status}${message ? `: ${message}` : ""}.${hint}`.replace("..", ".");
}

/** Reads server-sent events: content pieces, usage, or a typed error after the first byte. */
async function readStream(body, answer, started) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let first = true;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (!event || event === "[DONE]") continue;
      const chunk = JSON.parse(event);
      if (chunk.error) throw new Error(`The stream broke off: ${chunk.error.message ?? "unknown error"}`);
      const piece = chunk.choices?.[0]?.delta?.content;
      if (piece) {
        if (first) {
          first = false;
          fact("ttft", duration(performance.now() - started));
          setAttribute(byId("answer"), "data-state", "streaming");
        }
        answer.append(piece);
      }
      if (chunk.usage) fact("tokens", `${count(chunk.usage.prompt_tokens)} in, ${count(chunk.usage.completion_tokens)} out`);
    }
  }
}
