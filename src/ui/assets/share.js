// Share of traffic by backend: a doughnut with a legend that says the same in words.

import { doughnut } from "./charts.js";
import { byId, keep, make, setAttribute, setText } from "./dom.js";
import { count, percent } from "./format.js";
import { colourOf } from "./tones.js";

let drawRing = null;
let latest = null;

/** Makes the doughnut; call it once the chart library is there. */
export function startShare() {
  drawRing = doughnut(byId("ring"), (value) => ` ${count(value)} requests`);
  if (latest) drawShare(...latest);
}

/** Draws the doughnut and its legend. */
export function drawShare(data, tones) {
  latest = [data, tones];
  const { backends } = data;
  const all = backends.reduce((sum, one) => sum + one.requests, 0);
  const served = backends.filter((one) => one.requests > 0);
  drawRing?.(served.map((one) => ({ name: one.name, value: one.requests, colour: colourOf(tones.get(one.name)) })));
  setText(byId("ring-figure"), count(all));
  const words = served.map((one) => `${one.name} ${percent(one.requests, all)}`).join(", ");
  setAttribute(byId("ring"), "aria-label", all ? `Share of ${count(all)} requests: ${words}` : "No traffic yet");
  const rows = backends.map(({ name, requests }) => ({ name, requests, all, tone: tones.get(name) ?? "" }));
  keep(byId("legend"), rows, (row) => row.name, ({ name }) => {
    const swatch = make("span", { "aria-hidden": "true" });
    const requests = make("span", { class: "legend-count" });
    const share = make("span", { class: "legend-share" });
    const root = make("li", {}, swatch, make("span", { class: "legend-name", title: name }, name), requests, share);
    return {
      root,
      update(row) {
        setAttribute(swatch, "class", `swatch ${row.tone}`);
        setText(requests, count(row.requests));
        setText(share, percent(row.requests, row.all));
        setAttribute(root, "data-empty", row.requests ? "no" : "yes");
      },
    };
  });
}
