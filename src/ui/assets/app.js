// Entry: polls the router's figures and hands each answer to every panel.

import { startActivity } from "./activity.js";
import { drawArms } from "./arms.js";
import { noteBreakages, otherRegions, startBreakages } from "./breakages.js";
import { loadCharts } from "./charts.js";
import { byId, make, setAttribute, setText } from "./dom.js";
import { STALE_MS, age } from "./format.js";
import { drawDays, startDays } from "./days.js";
import { drawDecisions, startDecisions } from "./decisions.js";
import { drawFleet } from "./fleet.js";
import { drawHeadline, startHeadline } from "./headline.js";
import { drawMembers } from "./members.js";
import { drawMoney } from "./money.js";
import { drawShare, startShare } from "./share.js";
import { askForPassword, startLogin } from "./login.js";
import { offerRegions, startPlayground, tellPlayground } from "./playground.js";
import { poll } from "./poll.js";
import { startRecord } from "./record.js";
import { startTenants } from "./tenants.js";
import { tonesOf } from "./tones.js";
import { drawTroubles } from "./troubles.js";
import { isShown, startViews } from "./views.js";

const LINKS = {
  loading: () => "Connecting",
  live: () => "Live",
  paused: () => "Paused",
  stale: (ms) => `No answer for ${age(ms)}`,
  locked: () => "Password needed",
  unreachable: () => "Router out of reach",
};

function drawBar(data) {
  const place = [data.cloud, data.region].filter(Boolean).join(" · ");
  setText(byId("node"), place ? `${data.node} · ${place}` : data.node);
  document.title = `${data.node} · llm-router`;
  byId("simulated").hidden = !data.simulated;
  byId("nav-break").hidden = !data.staged;
  if (data.staged) startBreakages(offerRegions);
  setText(byId("strategy"), data.strategy);
  setText(byId("uptime"), age(data.uptime_s * 1000));
}

let region = "";

/** Says that the figures are old, and where else to look. */
function drawBanner(state, ms) {
  const banner = byId("banner");
  const gone = state === "stale" || state === "unreachable";
  if (gone) {
    const last = ms === null ? "No figures have come yet." : `The figures below are ${age(ms)} old.`;
    setText(byId("banner-text"), `This router does not answer. ${last} Asking again by itself.`);
    const others = otherRegions(region);
    const links = others.map((one) => make("a", { href: `${location.protocol}//${location.hostname}:${one.port}/${location.hash}` }, `${one.cloud} ${one.region}`));
    const known = byId("banner-elsewhere");
    if (known.childElementCount !== links.length) {
      known.replaceChildren(...(links.length ? ["The other regions' pages: ", ...links.flatMap((link, at) => (at ? [" · ", link] : [link]))] : []));
    }
  }
  banner.hidden = !gone;
}

startViews();
startDecisions();
startRecord();
startTenants();
startPlayground();
const askNow = poll("/ui/data", {
  staleMs: STALE_MS,
  onData(data) {
    const tones = tonesOf(data.backends);
    region = data.region;
    drawBar(data);
    tellPlayground(data);
    noteBreakages(data, tones);
    if (!isShown("overview")) return;
    drawTroubles(data);
    drawHeadline(data);
    drawFleet(data, tones);
    drawShare(data, tones);
    drawMoney(data);
    drawDays(data);
    drawArms(data);
    drawMembers(data);
    drawDecisions(data, tones);
  },
  onLink(state, ms) {
    setAttribute(document.body, "data-link", state);
    setText(byId("link"), LINKS[state](ms));
    drawBanner(state, ms);
    if (state === "locked") askForPassword();
  },
});
byId("banner-retry").addEventListener("click", askNow);
window.addEventListener("hashchange", askNow);
startLogin(askNow);
// The page stands before the library is read.
requestAnimationFrame(() => setTimeout(async () => {
  await loadCharts();
  startHeadline();
  startActivity();
  startShare();
  startDays();
}));
