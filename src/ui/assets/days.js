// Savings by day: gross and net side by side, never on top of each other and never added.

import { bars } from "./charts.js";
import { byId, setAttribute, setText } from "./dom.js";
import { dollars } from "./format.js";

const SERIES = [
  { name: "gross", colour: "var(--accent)" },
  { name: "net", colour: "var(--p50)" },
];

let draw = null;
let drawn = "";

/** Makes the chart; call it once the library is there. */
export function startDays() {
  draw = bars(byId("chart-days"), SERIES, dollars);
  drawn = "";
}

/** Draws the days, the oldest first, of all routers together where they are known. */
export function drawDays({ savings }) {
  const of = savings?.fleet?.length ? "fleet" : "this_router";
  const days = [...(savings?.[of] ?? [])].reverse();
  const newest = days.at(-1);
  setText(byId("days-note"), of === "fleet" ? "all routers, UTC" : "this router, UTC");
  setText(byId("day-gross"), newest ? dollars(newest.gross_savings_usd) : "–");
  setText(byId("day-net"), newest ? dollars(newest.net_savings_usd) : "–");
  const told = days.map((one) => `${one.day}: gross ${dollars(one.gross_savings_usd)}, net ${dollars(one.net_savings_usd)}`).join("; ");
  setAttribute(byId("chart-days"), "aria-label", told ? `Savings by day. ${told}` : "Savings by day: nothing was saved yet");
  if (!draw || told === drawn) return;
  drawn = told;
  draw(days.map((one) => one.day.slice(5)), [days.map((one) => one.gross_savings_usd), days.map((one) => one.net_savings_usd)]);
}
