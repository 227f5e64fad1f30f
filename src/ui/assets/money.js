// Spend, savings and budgets. Gross and net are two figures and never added or mixed.

import { byId, keep, make, setAttribute, setText } from "./dom.js";
import { count, dollars, percent } from "./format.js";

/** Draws the sums and the budgets. */
export function drawMoney({ totals, budgets }) {
  setText(byId("m-cost"), dollars(totals.cost_usd));
  setText(byId("m-external"), dollars(totals.external_equivalent_usd));
  signed("m-gross", totals.saved_usd);
  setText(byId("m-idle"), dollars(totals.idle_usd));
  signed("m-net", totals.net_saved_usd);
  setText(byId("m-unpriced"), `${count(totals.unpriced)} ${totals.unpriced === 1 ? "request" : "requests"}`);
  byId("budgets-empty").hidden = budgets.length > 0;
  keep(byId("budgets"), budgets, (one) => one.scope, createBudget);
}

function signed(id, value) {
  setText(byId(id), dollars(value));
  setAttribute(byId(id), "data-level", value < 0 ? "bad" : "ok");
}

function createBudget({ scope }) {
  const figures = make("span", { class: "budget-figures" });
  const bar = make("div", { class: "meter", role: "img" }, make("span"));
  const foot = make("p", { class: "muted budget-foot" });
  const mode = make("span", { class: "chip" });
  const root = make("li", {}, make("div", { class: "budget-head" }, make("b", { title: scope }, scope), mode, figures), bar, foot);
  return {
    root,
    update(one) {
      const used = one.spent_usd + one.reserved_usd;
      const part = one.limit_usd > 0 ? Math.min(1, used / one.limit_usd) : 1;
      setText(mode, one.mode);
      setText(figures, `${dollars(one.spent_usd)} of ${dollars(one.limit_usd)}`);
      bar.firstChild.style.setProperty("transform", `scaleX(${part.toFixed(3)})`);
      setAttribute(bar, "data-full", part >= 0.8 ? "yes" : "no");
      setAttribute(bar, "aria-label", `${percent(used, one.limit_usd)} used`);
      const ends = new Date(one.ends_unix * 1000).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
      setText(foot, `${dollars(one.reserved_usd)} reserved; at worst ${dollars(one.overshoot_usd)} over; new period ${ends}`);
    },
  };
}
