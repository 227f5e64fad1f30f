// Entry: polls the router's figures and hands each answer to every panel.

import { byId, setAttribute, setText } from "./dom.js";
import { STALE_MS, age } from "./format.js";
import { drawDecisions, startDecisions } from "./decisions.js";
import { drawFleet } from "./fleet.js";
import { drawHeadline } from "./headline.js";
import { drawMembers } from "./members.js";
import { drawShare } from "./share.js";
import { askForPassword, startLogin } from "./login.js";
import { settlePlayground, startPlayground } from "./playground.js";
import { poll } from "./poll.js";
import { tonesOf } from "./tones.js";

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
  setText(byId("playground-note"), data.simulated ? "a real route to a simulated answer" : "a real request, at real cost");
  setText(byId("strategy"), data.strategy);
  setText(byId("uptime"), age(data.uptime_s * 1000));
}

startDecisions();
startPlayground();
const askNow = poll("/ui/data", {
  staleMs: STALE_MS,
  onData(data) {
    const tones = tonesOf(data.backends);
    drawBar(data);
    drawHeadline(data);
    drawFleet(data, tones);
    drawShare(data, tones);
    drawMembers(data);
    drawDecisions(data, tones);
    settlePlayground(data);
  },
  onLink(state, ms) {
    setAttribute(document.body, "data-link", state);
    setText(byId("link"), LINKS[state](ms));
    if (state === "locked") askForPassword();
  },
});
startLogin(askNow);
