// The ledger by tenant: what the books on disk say.

import { byId, keep, make, setText } from "./dom.js";
import { count, dollars } from "./format.js";

/** Draws the table; without a ledger there is nothing to draw. */
export function drawTenants({ tenants }) {
  const rows = tenants ?? [];
  const empty = byId("tenants-empty");
  empty.hidden = rows.length > 0;
  if (tenants) setText(empty, "Nothing is in the ledger yet.");
  byId("tenants").closest("table").hidden = rows.length === 0;
  keep(byId("tenants"), rows, (one) => one.tenant, ({ tenant }) => {
    const cells = Array.from({ length: 4 }, () => make("td", { class: "c-num" }));
    const root = make("tr", {}, make("td", { title: tenant }, tenant || "(none)"), ...cells);
    return {
      root,
      update(one) {
        setText(cells[0], count(one.requests));
        setText(cells[1], `${count(one.input_tokens)} / ${count(one.output_tokens)}`);
        setText(cells[2], dollars(one.cost_usd));
        setText(cells[3], dollars(one.gross_savings_usd));
      },
    };
  });
}
