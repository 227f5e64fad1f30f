// The demo's buttons: each breaks what it says, routing answers, the page shows it, and it mends.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Browser, Demo, eventually, numberIn, shoot, textOf } from "./stage.js";

let demo;
let browser;
let page;

before(async () => {
  demo = await Demo.start();
  browser = await Browser.start();
  page = await browser.open(`${demo.url}/#break`);
  await page.waitForSelector("[data-break]");
});
after(() => Promise.all([browser?.stop(), demo?.stop()]));

const button = (name) => page.locator(`[data-break="${name}"]`);

async function press(name, broken) {
  await button(name).click();
  await page.waitForSelector(`[data-break="${name}"][aria-pressed=${broken}]`);
}

/** What one request by the API came to. */
async function ask(headers = {}, model = "assistant") {
  const body = JSON.stringify({ model, messages: [{ role: "user", content: `Hello ${Math.random()}` }], max_tokens: 4 });
  const answer = await fetch(`${demo.url}/v1/chat/completions`, { method: "POST", headers, body });
  await answer.text();
  return { status: answer.status, backend: answer.headers.get("x-llm-router-backend") };
}

const told = (text) => eventually(async () => (await textOf(page, "#story")).includes(text), 25_000, `the page tells “${text}”`);
const healthOf = async (name) => (await demo.get("/ui/data")).backends.find((one) => one.name === name).health;

test("a provider's outage sends its requests elsewhere", async () => {
  await press("outage/openai", true);
  for (let at = 0; at < 8; at += 1) {
    const { status, backend } = await ask({ "x-llm-router-strategy": "external_first" });
    assert.equal(status, 200);
    assert.notEqual(backend, "openai");
  }
  await told("Provider outage: openai");
  await eventually(async () => (await textOf(page, "#shift-note")).includes("Provider outage"), 10_000, "before and since are compared");
  const row = page.locator("#shifts li", { has: page.locator(".shift-name:text-is('openai')") });
  await eventually(async () => (await row.locator("b").nth(1).innerText()) === "0 %", 15_000, "openai serves nothing since");
  await shoot(page, "break-outage");
  await press("outage/openai", false);
});

test("a slow cluster is measured as slow", async () => {
  const first = async () => {
    const from = performance.now();
    await ask({ "x-llm-router-backend": "azure-gpu" }, "llama-2-7b-chat");
    return performance.now() - from;
  };
  const usual = await first();
  await press("slow/azure-gpu", true);
  const slow = await first();
  assert.ok(slow > usual * 2, `${usual} ms before, ${slow} ms after`);
  await press("slow/azure-gpu", false);
});

test("a preempted spot cluster is left before its machines go", async () => {
  assert.ok((await demo.get("/ui/data")).backends.some((one) => one.name === "gcp-gpu"));
  await press("preempt/gcp-gpu", true);
  // Within its notice, while it still answers, nothing more is sent there.
  const refused = async () => {
    const body = JSON.stringify({ model: "assistant", messages: [{ role: "user", content: "x" }], max_tokens: 400 });
    const answer = await fetch(`${demo.url}/ui/explain`, { method: "POST", headers: { "x-llm-router-page": "1" }, body });
    return (await answer.json()).refused.some((one) => one.backend === "gcp-gpu");
  };
  await eventually(refused, 9000, "it is refused");
  await eventually(async () => (await healthOf("gcp-gpu")) === "unhealthy", 25_000, "its machines are gone");
  await told("gcp-gpu is unhealthy");
  await press("preempt/gcp-gpu", false);
  await eventually(async () => (await healthOf("gcp-gpu")) === "healthy", 25_000, "new machines come");
});

test("a partition is seen on both sides, and its region's clusters are not used from here", async () => {
  await press("partition/eastus", true);
  await told("azure-eastus is no longer heard");
  await told("azure-cpu is unhealthy");
  const { backend } = await ask();
  assert.ok(!backend.startsWith("azure"), backend);
  const beyond = await fetch(`${demo.urls[2]}/ui/data`).then((answer) => answer.json());
  await eventually(async () => beyond.members.length === 3, 1000, "the other side knows of three");
  await page.locator("a[data-view=overview]").click();
  await eventually(async () => (await textOf(page, "#members-partition")).includes("azure-eastus"), 10_000, "the overview says so");
  assert.match(await textOf(page, "#troubles"), /azure-eastus \(eastus\) is not heard/);
  await shoot(page, "partition");
  await page.locator("a[data-view=break]").click();
  await press("partition/eastus", false);
  await told("azure-eastus is heard again");
  await eventually(async () => (await healthOf("azure-cpu")) === "healthy", 25_000, "its clusters are in reach again");
});

test("a burst brings many more requests", async () => {
  const pace = async () => (await demo.get("/ui/history?after=0")).slice(-3).reduce((sum, one) => sum + one.requests, 0);
  const usual = await pace();
  await press("burst/all", true);
  await eventually(async () => (await pace()) > usual * 1.8, 18_000, `more than ${usual} in three samples`);
  await press("burst/all", false);
});

test("another region's router is killed and comes back", async () => {
  await press("kill/us-central1", true);
  await told("Router gcp-us-central1 is no longer heard");
  await told("The router of us-central1 is down");
  await assert.rejects(fetch(`${demo.urls[1]}/livez`));
  assert.equal((await ask()).status, 200, "this region goes on");
  await page.locator("a[data-view=playground]").click();
  await page.locator("#ask-region").selectOption("us-central1");
  await page.locator("#ask-prompt").fill("Is somebody there?");
  await page.locator("#ask-send").click();
  await page.locator(".answer[data-state=error]").waitFor();
  assert.match(await textOf(page, ".turn"), /the router of us-central1 does not answer/);
  await page.locator("#ask-region").selectOption("");
  await page.locator("a[data-view=break]").click();
  await press("kill/us-central1", false);
  await told("Router gcp-us-central1 is heard again");
  await eventually(async () => (await fetch(`${demo.urls[1]}/readyz`)).ok, 20_000, "it is ready again");
});

test("when the page's own router is killed the page says so, names the others and goes on by itself", async () => {
  await page.locator("a[data-view=overview]").click();
  const before = numberIn(await textOf(page, "#h-requests"));
  assert.ok(before > 0);
  await page.locator("a[data-view=break]").click();
  await button("kill/us-west-2").click();
  await page.waitForSelector("#banner:not([hidden])");
  assert.match(await textOf(page, "#banner"), /does not answer/);
  assert.equal(await page.locator("#banner a").count(), 2);
  await shoot(page, "router-gone", false);
  // Any other region's page can bring it back.
  const other = await browser.open(`${demo.urls[1]}/#break`);
  await other.locator('[data-break="kill/us-west-2"][aria-pressed=true]').click();
  await page.waitForSelector("#banner", { state: "hidden" });
  await page.waitForSelector("[data-link=live]");
  await other.context().close();
});

test("nobody but the page can break things, and no call can be paid", async () => {
  const url = `${demo.url}/ui/demo/burst/all`;
  assert.equal((await fetch(url, { method: "POST" })).status, 403);
  assert.equal((await fetch(url, { method: "POST", headers: { "x-llm-router-page": "1", origin: "http://evil.example" } })).status, 403);
  assert.equal((await fetch(`${demo.url}/ui/demo/kill/nowhere`, { method: "POST", headers: { "x-llm-router-page": "1" } })).status, 404);
  const forward = (path) => fetch(`${demo.url}/ui/demo/regions/us-central1/${path}`, { headers: { "x-llm-router-page": "1" } });
  assert.equal((await forward("metrics")).status, 404, "what goes on to another region is a short list");
  // A key in the environment reaches nothing: the three providers are simulated, and say what they counted.
  assert.ok(!demo.output.includes("sk-of-the-tests"));
  assert.ok(await page.locator("#simulated").isVisible());
});
