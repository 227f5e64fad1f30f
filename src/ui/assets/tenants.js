// The ledger by tenant: what the books on disk say, asked for less often than what changes by the second.

import { byId, keep, make, setText } from "./dom.js";
import { count, dollars } from "./format.js";
import { isShown } from "./views.js";

const EVERY_MS = 10000;
const FIRST_MS = 1500;

/** Starts asking. */
export function startTenants() {
  const ask = async () => {
    if (!document.hidden && isShown("overview")) await read();
    setTimeout(ask, EVERY_MS);
  };
  setTimeout(ask, FIRST_MS);
}

async function read() {
  try {
    const response = await fetch("/ui/tenants", { cache: "no-store", signal: AbortSignal.timeout(8000) });
    if (response.ok) draw(await response.json());
    else if (response.status !== 401) say((await response.json()).error.message);
  } catch {
    // The banner says that the router does not answer.
  }
}

function say(text) {
  const empty = byId("tenants-empty");
  empty.hidden = !text;
  setText(empty, text);
}

function draw(tenants) {
  const rows = tenants ?? [];
  say(tenants === null ? "No ledger is kept: `ledger.path` in the configuration starts one." : rows.length ? "" : "Nothing is in the ledger yet.");
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
