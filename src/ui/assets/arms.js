// The arms of experiments, side by side.

import { byId, keep, make, setText } from "./dom.js";
import { UNKNOWN, count, dollars, duration, percent } from "./format.js";

/** Draws the table. */
export function drawArms({ arms }) {
  byId("arms-empty").hidden = arms.length > 0;
  byId("arms").closest("table").hidden = arms.length === 0;
  keep(byId("arms"), arms, (one) => `${one.experiment}\n${one.arm}`, ({ experiment, arm }) => {
    const cells = Array.from({ length: 4 }, () => make("td", { class: "c-num" }));
    const root = make("tr", {}, make("td", { title: experiment }, experiment), make("td", { title: arm }, arm), ...cells);
    return {
      root,
      update(one) {
        setText(cells[0], count(one.requests));
        setText(cells[1], percent(one.served, one.requests));
        setText(cells[2], duration(one.ttft_avg_ms));
        setText(cells[3], one.requests > 0 ? dollars(one.spend_usd / one.requests) : UNKNOWN);
      },
    };
  });
}
