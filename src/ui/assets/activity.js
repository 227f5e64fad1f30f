// The last ten minutes: requests, time to first token, errors and fallbacks, from the router's own samples.

import { curves } from "./charts.js";
import { byId, setAttribute, setText } from "./dom.js";
import { count, duration, rate } from "./format.js";

const EVERY_MS = 2000;
const SAMPLES_MAX = 300;

let samples = [];
let draws = null;

/** Starts asking for samples; call it once the chart library is there. */
export function startActivity() {
  const requests = curves(byId("chart-requests"), [{ name: "requests per second", colour: "var(--accent)", fill: true }], rate);
  const ttft = curves(byId("chart-ttft"), [{ name: "p50", colour: "var(--p50)" }, { name: "p95", colour: "var(--p95)" }], duration);
  const errors = curves(byId("chart-errors"), [{ name: "errors", colour: "var(--bad)" }, { name: "fallbacks", colour: "var(--warn)" }], count);
  draws = { requests, ttft, errors };
  const ask = async () => {
    if (!document.hidden) await read();
    setTimeout(ask, EVERY_MS);
  };
  ask();
}

async function read() {
  try {
    const last = samples.at(-1)?.unix_ms ?? 0;
    const response = await fetch(`/ui/history?after=${last}`, { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!response.ok) return;
    const fresh = await response.json();
    if (!fresh.length) return;
    samples = [...samples, ...fresh].slice(-SAMPLES_MAX);
    draw();
  } catch {
    // The banner says that the router does not answer.
  }
}

const perSecond = (one) => (one.over_ms > 0 ? (one.requests * 1000) / one.over_ms : 0);

function draw() {
  const times = samples.map((one) => one.unix_ms);
  const of = (key) => samples.map((one) => one[key]);
  const newest = samples.at(-1);
  const minutes = Math.max(1, Math.round((newest.unix_ms - samples[0].unix_ms) / 60000));
  setText(byId("activity-note"), `the last ${minutes === 1 ? "minute" : `${minutes} minutes`} of this router`);
  const sum = (key) => samples.reduce((all, one) => all + one[key], 0);
  setText(byId("now-requests"), rate(perSecond(newest)));
  setText(byId("now-p50"), duration(newest.ttft_p50_ms));
  setText(byId("now-p95"), duration(newest.ttft_p95_ms));
  setText(byId("now-errors"), count(sum("errors")));
  setText(byId("now-fallbacks"), count(sum("fallbacks")));
  setAttribute(byId("chart-requests"), "aria-label", `Requests per second, now ${rate(perSecond(newest))}`);
  setAttribute(byId("chart-ttft"), "aria-label", `Time to first token, now ${duration(newest.ttft_p50_ms)} at the median and ${duration(newest.ttft_p95_ms)} at the 95th percentile`);
  setAttribute(byId("chart-errors"), "aria-label", `${count(sum("errors"))} errors and ${count(sum("fallbacks"))} fallbacks in the time shown`);
  draws.requests?.(times, [samples.map(perSecond)]);
  draws.ttft?.(times, [of("ttft_p50_ms"), of("ttft_p95_ms")]);
  draws.errors?.(times, [of("errors"), of("fallbacks")]);
}
