// Share of traffic by backend: a doughnut with a legend that says the same in words.

import { byId, keep, make, makeSvg, setAttribute, setText } from "./dom.js";
import { count, percent } from "./format.js";

const RADIUS = 48;
const AROUND = 2 * Math.PI * RADIUS;

/** Draws the doughnut and its legend. */
export function drawShare({ backends }, tones) {
  const all = backends.reduce((sum, one) => sum + one.requests, 0);
  const served = backends.filter((one) => one.requests > 0);
  const gap = served.length > 1 ? 1.5 : 0;
  let start = 0;
  const parts = served.map((one) => {
    const length = (one.requests / all) * AROUND;
    const part = { name: one.name, tone: tones.get(one.name) ?? "", start, length: Math.max(0.5, length - gap) };
    start += length;
    return part;
  });
  keep(byId("ring-parts"), parts, (one) => one.name, () => {
    const root = makeSvg("circle", { cx: 60, cy: 60, r: RADIUS });
    return {
      root,
      update(part) {
        setAttribute(root, "class", `ring-part ${part.tone}`);
        setAttribute(root, "stroke-dasharray", `${part.length.toFixed(2)} ${(AROUND - part.length).toFixed(2)}`);
        setAttribute(root, "stroke-dashoffset", (-part.start).toFixed(2));
      },
    };
  });
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
