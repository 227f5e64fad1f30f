// Figures as people read them. Unknown is a dash or "unknown", never zero.

export const UNKNOWN = "–";

/** A fact older than this no longer counts for routing when a peer said it. */
export const STALE_MS = 5000;

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const significant = new Intl.NumberFormat("en-US", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const cents = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

const missing = (value) => value === null || value === undefined || !Number.isFinite(value);

/** `1,234`, and `1.23M` from a million on. */
export function count(value) {
  if (missing(value)) return UNKNOWN;
  return value >= 1e6 ? compact.format(value) : whole.format(value);
}

/** `42` or `8.4` tokens per second. */
export function rate(value) {
  if (missing(value)) return UNKNOWN;
  return value < 10 ? value.toFixed(1) : count(value);
}

/** Dollars: cents from one dollar on, three significant digits below. */
export function dollars(value) {
  if (missing(value)) return UNKNOWN;
  const size = Math.abs(value);
  const sign = value < 0 ? "−$" : "$";
  if (size === 0) return "$0";
  if (size < 1e-9) return "<$0.000000001";
  if (size < 1) return sign + significant.format(size);
  return sign + (size < 1e6 ? cents.format(size) : compact.format(size));
}

/** `312 ms`, `1.24 s`, `12.4 s`. */
export function duration(ms) {
  if (missing(ms)) return UNKNOWN;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 10000 ? `${(ms / 1000).toFixed(2)} s` : `${(ms / 1000).toFixed(1)} s`;
}

/** `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`. */
export function age(ms) {
  if (missing(ms)) return UNKNOWN;
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** `37 %`, `<1 %`, `0 %`. */
export function percent(part, all) {
  if (!all) return "0 %";
  const share = (100 * part) / all;
  return share > 0 && share < 1 ? "<1 %" : `${Math.round(share)} %`;
}

/** Local time of day. */
export const timeOfDay = (unixMs) => clock.format(new Date(unixMs));

/** `1 router`, `3 routers`. */
export const counted = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

const REASONS = {
  lowest_cost: "the cheapest of all that can serve it",
  lowest_latency: "the shortest predicted time to the first token",
  external_first: "providers come first in this strategy",
  cluster_fallback: "a cluster, since no provider could serve it",
  cluster_first: "clusters come first in this strategy",
  external_fallback: "a provider, since no cluster could serve it",
  hybrid_cluster: "a healthy cluster at or under the cost threshold",
  hybrid_cheapest: "no cluster under the threshold, so the cheapest of all",
  slo_cheapest: "the cheapest that is predicted to meet the latency targets",
  slo_fastest: "none is predicted to meet the latency targets, so the fastest",
  sticky: "the backend that served this session last",
  prefix_affinity: "prompts that begin like this one go there, where their beginning is cached",
  pinned: "the backend the client named",
  least_bad: "its circuit breaker is open, but so are too many others",
};

/** A reason label in words; labels this page does not know explain nothing. */
export const explain = (reason) => REASONS[reason] ?? "";
