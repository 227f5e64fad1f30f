// The playground: streamed answers with their route, conversations, regions, explanations, comparison.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Browser, Demo, PHONE, eventually, shoot, textOf, violations } from "./stage.js";

let demo;
let browser;
let page;

before(async () => {
  demo = await Demo.start();
  browser = await Browser.start();
  page = await browser.open(`${demo.url}/#playground`);
  await page.waitForSelector("[data-link=live]");
});
after(() => Promise.all([browser?.stop(), demo?.stop()]));

const turn = (at) => page.locator(".turn").nth(at);
const fact = (at, name) => turn(at).locator(`[data-fact=${name}]`).innerText();

async function send(prompt) {
  const at = await page.locator(".turn").count();
  await page.locator("#ask-prompt").fill(prompt);
  await page.locator("#ask-send").click();
  await turn(at).waitFor();
  return at;
}

const isDone = (at) => turn(at).locator(".answer[data-state=done]").waitFor();

test("an answer streams in, with its route, reason, cost and latency beneath, and nothing jumps", async () => {
  await page.evaluate(() => {
    globalThis.shifted = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((one) => (globalThis.shifted += one.hadRecentInput ? 0 : one.value))).observe({ type: "layout-shift" });
  });
  const at = await send("Explain the tides in a few sentences.");
  await turn(at).locator(".answer[data-state=streaming]").waitFor();
  const text = () => turn(at).locator(".answer-text").innerText();
  const early = (await text()).length;
  await eventually(async () => (await text()).length > early, 10_000, "more text comes");
  assert.equal(await turn(at).locator(".answer[data-state=streaming]").count(), 1, "it came in pieces");
  await isDone(at);
  await turn(at).locator("xpath=./*[@data-settled='yes']").waitFor();
  for (const name of ["backend", "reason", "region", "cost", "ttft", "total", "tokens", "attempts"]) assert.notEqual(await fact(at, name), "–", name);
  const { decisions } = await demo.get("/ui/data");
  const backend = await fact(at, "backend");
  assert.ok(decisions.some((one) => one.backend === backend && one.model === "auto"));
  const shifted = await page.evaluate(() => globalThis.shifted);
  assert.ok(shifted < 0.02, `the layout shifted by ${shifted}`);
  await shoot(page, "playground-answer");
});

test("a conversation goes on, in another region where one likes", async () => {
  await page.locator("#ask-region").selectOption("us-central1");
  const sent = page.waitForRequest((request) => request.url().includes("/regions/us-central1/v1/chat/completions"));
  const at = await send("And the next part?");
  const { messages } = (await sent).postDataJSON();
  assert.deepEqual(messages.map((one) => one.role), ["user", "assistant", "user"]);
  await isDone(at);
  assert.equal(await fact(at, "region"), "us-central1");
  await turn(at).locator(".why").click();
  await page.waitForSelector("#record[open] .candidates");
  await page.locator("#record-close").click();
  await page.locator("#ask-region").selectOption("");
  await page.locator("#ask-new").click();
  assert.equal(await page.locator(".turn").count(), 0);
});

test("stop ends the answer at once, and the router cancels the work", async () => {
  const before = await demo.metric("llm_router_cancelled_requests_total");
  const at = await send("Write a long story.");
  await turn(at).locator(".answer[data-state=streaming]").waitFor();
  await page.locator("#ask-stop").click();
  await turn(at).locator(".answer[data-state=stopped]").waitFor();
  assert.match(await turn(at).innerText(), /Stopped/);
  await eventually(async () => (await demo.metric("llm_router_cancelled_requests_total")) > before, 30_000, "the router counts it");
});

test("explain says who would be asked without running anything", async () => {
  await page.locator("#ask-strategy").selectOption("external_first");
  await page.locator("#ask-prompt").fill("What would you do?");
  await page.locator("#ask-explain").click();
  await page.waitForSelector("#explained .candidates");
  assert.equal(await page.locator("#explained .candidates tbody tr").first().locator(".c-reason").innerText(), "external_first");
  const refused = await page.locator("#explained .lines li").count();
  assert.equal((await page.locator("#explained .candidates tbody tr").count()) + refused, 9, "every backend is a candidate or refused");
  assert.equal(await page.locator(".turn .answer[data-state=streaming]").count(), 0);
  const own = await fetch(`${demo.url}/ui/explain`, { method: "POST", body: "{}" });
  assert.equal(own.status, 403, "only the page itself may ask");
  await page.locator("#ask-strategy").selectOption("");
});

test("the same prompt by all strategies stands side by side", async () => {
  await page.locator("#ask-prompt").fill("Compare.");
  await page.locator("#ask-compare").click();
  await eventually(async () => (await page.locator(".column .answer[data-state=done]").count()) === 6, 90_000, "six answers");
  const backend = (strategy) => page.locator(`.column[data-strategy=${strategy}] [data-fact=backend]`).innerText();
  const providers = ["openai", "anthropic", "gemini"];
  assert.ok(providers.includes(await backend("external_first")));
  assert.ok(!providers.includes(await backend("cluster_first")));
  assert.deepEqual(await violations(page), []);
  await shoot(page, "playground-compare");
});

test("an error is told in words, and a hostile prompt is only text", async () => {
  const hostile = "<img src=x onerror=globalThis.broken=1><script>globalThis.broken=1</script>";
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 503, json: { error: { message: `no backend ${hostile}` } } }), { times: 1 });
  const at = await send(hostile);
  await turn(at).locator(".answer[data-state=error]").waitFor();
  assert.match(await turn(at).innerText(), /Status 503: no backend <img/);
  assert.equal(await page.locator("#ask-prompt").inputValue(), hostile, "it can be sent again");
  assert.equal(await page.evaluate(() => globalThis.broken ?? 0), 0);
  assert.equal(await page.locator("main img").count(), 0);
  // The browser itself notes the 503.
  assert.deepEqual(page.complaints.filter((one) => !one.includes("503")), []);
});

test("a phone can ask too", async () => {
  const phone = await browser.open(`${demo.url}/#playground`, PHONE);
  await phone.waitForSelector("[data-link=live]");
  await phone.locator("#samples button").first().tap();
  await phone.locator("#ask-send").tap();
  await phone.locator(".answer[data-state=done]").waitFor();
  assert.ok(await phone.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  assert.ok((await textOf(phone, ".turn")).includes("Portugal"));
  await shoot(phone, "playground-answer-phone");
  await phone.context().close();
});
