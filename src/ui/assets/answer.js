// One answer as it streams: its text, and the route, reason, cost and latency beneath.

import { ask, wordsOf } from "./ask.js";
import { make, setAttribute, setText } from "./dom.js";
import { UNKNOWN, count, dollars, duration, explain } from "./format.js";
import { openRecord, readRecord } from "./record.js";

const TEXT_MAX = 100000;
const FACTS = { backend: "Backend", reason: "Reason", region: "Region", cost: "Cost", ttft: "First token", total: "Total", tokens: "Tokens", attempts: "Attempts" };
/** The record is written when the answer has ended, a moment after its last byte. */
const SETTLED_AFTER_MS = [60, 250, 700, 1500];

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** An answer's elements. `run(request, signal)` fills them and answers the whole text, or null where it failed. */
export function createAnswer(scroller) {
  const text = document.createTextNode("");
  const body = make("div", { class: "answer", "data-state": "waiting", ...(scroller ? {} : { tabindex: "0", role: "region", "aria-label": "Answer" }) }, make("p", { class: "answer-text" }, text));
  const cells = {};
  const facts = make("dl", { class: "route" });
  for (const [name, label] of Object.entries(FACTS)) {
    cells[name] = make("dd", { "data-fact": name }, UNKNOWN);
    facts.append(make("div", {}, make("dt", {}, label), cells[name]));
  }
  const why = make("button", { type: "button", class: "quiet why" }, "Why this one");
  why.disabled = true;
  const root = make("div", { class: "answered" }, body, facts, make("div", { class: "actions" }, why));
  const fact = (name, value, title = value) => {
    setText(cells[name], value);
    setAttribute(cells[name], "title", title);
  };
  // Tokens are written once per frame, however fast they come.
  let pending = "";
  let scheduled = false;
  const flush = () => {
    scheduled = false;
    const box = scroller ?? body;
    const follow = box.scrollTop + box.clientHeight >= box.scrollHeight - 32;
    text.appendData(pending.slice(0, Math.max(0, TEXT_MAX - text.length)));
    pending = "";
    if (follow) box.scrollTop = box.scrollHeight;
  };
  const note = (message, level) => body.append(make("p", { class: "answer-note", "data-level": level }, message));

  const run = async (request, signal) => {
    const started = performance.now();
    let decision = null;
    let region = request.region;
    let whole = null;
    why.addEventListener("click", () => openRecord(decision, region));
    try {
      const total = await ask(request, {
        head(route) {
          decision = route.decision;
          fact("backend", route.backend ?? "none");
          fact("reason", route.reason ?? UNKNOWN, explain(route.reason));
          fact("region", route.region ?? UNKNOWN);
          fact("attempts", route.attempts ?? UNKNOWN);
          fact("cost", route.cost === null ? UNKNOWN : `≈ ${dollars(route.cost)}`, "predicted; settled once the answer is complete");
          why.disabled = !decision;
        },
        piece(piece, ms) {
          if (body.dataset.state === "waiting") {
            fact("ttft", duration(ms));
            setAttribute(body, "data-state", "streaming");
          }
          pending += piece;
          if (!scheduled) {
            scheduled = true;
            requestAnimationFrame(flush);
          }
        },
        usage: (usage) => fact("tokens", `${count(usage.prompt_tokens)} in, ${count(usage.completion_tokens)} out`),
      }, signal);
      flush();
      fact("total", duration(total));
      setAttribute(body, "data-state", "done");
      whole = text.data;
    } catch (error) {
      flush();
      fact("total", duration(performance.now() - started));
      const stopped = signal.aborted;
      note(stopped ? "Stopped. The router cancels the backend's work when a client goes." : wordsOf(error), stopped ? "warn" : "bad");
      setAttribute(body, "data-state", stopped ? "stopped" : "error");
      if (scroller) scroller.scrollTop = scroller.scrollHeight;
    }
    if (decision) settle(decision, region);
    return whole;
  };

  /** Puts what it truly came to in place of what was predicted. */
  const settle = async (decision, region) => {
    for (const ms of SETTLED_AFTER_MS) {
      await pause(ms);
      const record = await readRecord(decision, region).catch(() => null);
      if (!record) continue;
      fact("cost", record.cost_usd === null ? "unpriced" : dollars(record.cost_usd), "settled");
      fact("attempts", count(record.attempts.length));
      setAttribute(root, "data-settled", "yes");
      return;
    }
  };
  return { root, run };
}
