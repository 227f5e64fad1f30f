// The overview: its figures are those of the API and of /metrics, and it is well made.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Browser, DARK, DESKTOP, Demo, PHONE, eventually, numberIn, shoot, textOf, violations } from "./stage.js";

let demo;
let browser;
let page;
/** The page asks once a second: what it shows is at most this old. */
const SHOWN_WITHIN_MS = 20_000;

before(async () => {
  demo = await Demo.start();
  browser = await Browser.start();
  page = await browser.open(demo.url);
  await page.waitForSelector("[data-link=live]");
});
after(() => Promise.all([browser?.stop(), demo?.stop()]));

/** Asserts that the page shows a counter's value of now, though it goes on rising meanwhile. */
async function follows(shown, truth, what) {
  const low = await truth();
  await eventually(async () => (await shown()) >= low, SHOWN_WITHIN_MS, `${what} reaches ${low}`);
  const [value, high] = [await shown(), await truth()];
  assert.ok(value <= high, `${what}: shown ${value}, true ${high}`);
}

test("the four headline cards say what /metrics and the API say", async () => {
  await eventually(async () => (await demo.metric("llm_router_requests_total")) > 20, 30_000, "there is traffic");
  await follows(async () => numberIn(await textOf(page, "#h-requests")), () => demo.metric("llm_router_requests_total"), "total requests");
  const data = await demo.get("/ui/data");
  const healthy = await demo.metric("llm_router_cluster_health");
  assert.equal(await textOf(page, "#h-clusters"), `${healthy} / ${data.clusters_total}`);
  await eventually(async () => {
    const [{ totals }, saved, latency] = [await demo.get("/ui/data"), await textOf(page, "#h-saved"), await textOf(page, "#h-latency")];
    const near = (shown, truth) => Math.abs(shown - truth) <= Math.abs(truth) * 0.1;
    return near(numberIn(saved), totals.saved_usd) && near(numberIn(latency) * (latency.includes("ms") ? 1 : 1000), totals.latency_avg_ms);
  }, SHOWN_WITHIN_MS, "cost saved and average latency agree with the API");
  await eventually(async () => {
    const [spent, { totals }] = [await demo.metric("llm_router_spend_usd_total"), await demo.get("/ui/data")];
    return Math.abs(totals.cost_usd - spent) <= spent * 0.05;
  }, SHOWN_WITHIN_MS, "spend agrees with /metrics");
});

test("each backend of the fleet shows its health, price and speed", async () => {
  const { backends } = await demo.get("/ui/data");
  assert.equal(await page.locator(".backend").count(), backends.length);
  for (const { name, cluster } of backends) {
    const card = page.locator(".backend", { has: page.locator(`h4:text-is("${name}")`) });
    await eventually(async () => (await card.locator(".badge").innerText()) === "healthy", SHOWN_WITHIN_MS, `${name} is healthy`);
    if (!cluster) continue;
    const cell = async (label) => numberIn(await card.locator(`.cells div:has(dt:text-is("${label}")) dd`).innerText());
    await eventually(async () => {
      const price = await demo.metric("llm_router_cluster_cost_per_1k_tokens", { cluster: name });
      const speed = await demo.metric("llm_router_backend_tokens_per_second", { backend: name });
      return Math.abs((await cell("$ / 1K")) - price) <= price * 0.15 && Math.abs((await cell("tok/s")) - speed) <= Math.max(1, speed * 0.15);
    }, 15_000, `price and speed of ${name} agree with /metrics`);
    assert.match(await card.locator(".source").innerText(), /own facts, \d/);
  }
});

test("share, money, budget, arms and members are those of the API", async () => {
  const legend = (name) => page.locator("#legend li", { has: page.locator(`.legend-name:text-is("${name}")`) }).locator(".legend-count").innerText();
  await follows(async () => numberIn(await legend("aws-gpu")), async () => (await demo.get("/ui/data")).backends.find((one) => one.name === "aws-gpu").requests, "share of aws-gpu");
  assert.ok((await page.locator("#ring").getAttribute("aria-label")).includes("aws-gpu"));
  assert.match(await textOf(page, "#budgets"), /fleet/);
  assert.ok((await textOf(page, "#budgets")).includes(`of $${(await demo.metric("llm_router_budget_limit_usd", { scope: "fleet" })).toFixed(2)}`));
  // Gross and net stand apart, and net is gross less the idle hours.
  const { totals } = await demo.get("/ui/data");
  assert.ok(Math.abs(totals.saved_usd - totals.idle_usd - totals.net_saved_usd) < 1e-9);
  for (const [id, key] of [["m-cost", "cost_usd"], ["m-gross", "saved_usd"], ["m-idle", "idle_usd"], ["m-net", "net_saved_usd"]]) {
    await eventually(async () => {
      const now = (await demo.get("/ui/data")).totals[key];
      return Math.abs(numberIn(await textOf(page, `#${id}`)) - now) <= Math.max(1e-6, Math.abs(now) * 0.1);
    }, SHOWN_WITHIN_MS, `${key} agrees`);
  }
  await eventually(async () => (await page.locator("#arms tr").count()) === 2, 40_000, "both arms had a request");
  for (const arm of ["control", "small"]) {
    const row = page.locator("#arms tr", { has: page.locator(`td:text-is("${arm}")`) });
    await follows(async () => numberIn(await row.locator("td").nth(2).innerText()), () => demo.metric("llm_router_experiment_requests_total", { arm }), `requests of arm ${arm}`);
  }
  assert.equal(await page.locator("#members li").count(), 3);
  assert.equal(await page.locator("#members .badge[data-health=healthy]").count(), 3);
});

test("the ledger by tenant is what the API says, and tenants' budgets stand beside the fleet's", async () => {
  await eventually(async () => (await page.locator("#tenants tr").count()) >= 3, 40_000, "the demo's tenants are in the books");
  const names = (await demo.get("/ui/tenants")).map((one) => one.tenant);
  for (const tenant of ["acme", "globex", "initech"]) {
    assert.ok(names.includes(tenant), `${names}`);
    const row = page.locator("#tenants tr", { has: page.locator(`td:text-is("${tenant}")`) });
    const booked = async () => (await demo.get("/ui/tenants")).find((one) => one.tenant === tenant).requests;
    const shown = async () => numberIn(await row.locator("td").nth(1).innerText());
    const low = await booked();
    await eventually(async () => (await shown()) >= low, 25_000, `${tenant} has ${low} requests`);
    assert.ok((await shown()) <= (await booked()));
  }
  const { budgets } = await demo.get("/ui/data");
  for (const { scope } of budgets) assert.ok((await textOf(page, "#budgets")).includes(scope), scope);
  assert.ok(budgets.some((one) => one.scope.includes("initech")), JSON.stringify(budgets));
});

test("savings by day are drawn gross and net apart, as the API tells them", async () => {
  await eventually(async () => {
    const [day] = (await demo.get("/ui/data")).savings.fleet;
    const near = (shown, truth) => Math.abs(shown - truth) <= Math.max(1e-5, Math.abs(truth) * 0.1);
    return near(numberIn(await textOf(page, "#day-gross")), day.gross_savings_usd) && near(numberIn(await textOf(page, "#day-net")), day.net_savings_usd);
  }, SHOWN_WITHIN_MS, "the newest day's figures agree");
  const [day] = (await demo.get("/ui/data")).savings.fleet;
  assert.ok(Math.abs(day.gross_savings_usd - day.idle_usd - day.net_savings_usd) < 1e-9);
  assert.ok((await page.locator("#chart-days").getAttribute("aria-label")).includes(`${day.day}: gross`));
});

test("the strip says what is wrong, the gravest first, and that nothing is", async () => {
  const data = await demo.get("/ui/data");
  const shown = await browser.open("about:blank");
  let ill = false;
  await shown.route("**/ui/data", (route) => {
    const backends = data.backends.map((one) => ({ ...one, health: ill && (one.region === "us-central1" || one.name === "openai") ? "unhealthy" : "healthy", breaker_open: false }));
    const members = data.members.map((one) => ({ ...one, live: !ill || one.region !== "us-central1" }));
    const budgets = [{ ...data.budgets[0], spent_usd: data.budgets[0].limit_usd * (ill ? 0.9 : 0.1) }];
    route.fulfill({ json: { ...data, backends, members, budgets, split: ill } });
  });
  await shown.goto(demo.url);
  await shown.waitForSelector("#troubles[data-level=ok]");
  const before = await shown.locator(".headline").boundingBox();
  ill = true;
  await shown.waitForSelector("#troubles[data-level=bad]");
  const told = await shown.locator("#troubles-list li").allInnerTexts();
  assert.deepEqual(told, ["router gcp-us-central1 (us-central1) is not heard", "no cluster of us-central1 is healthy", "provider openai is unhealthy", "90 % of the budget of fleet is spent", "limits are split: each router keeps to its own part"]);
  assert.deepEqual(await violations(shown), []);
  await shoot(shown, "trouble", false);
  const after = await shown.locator(".headline").boundingBox();
  assert.ok(after.y - before.y < 60, `the page moved by ${after.y - before.y}`);
  await shown.context().close();
});

test("the charts draw what /ui/history tells", async () => {
  const samples = await demo.get("/ui/history?after=0");
  assert.ok(samples.length > 2);
  assert.ok(samples.some((one) => one.requests > 0 && one.ttft_p95_ms >= one.ttft_p50_ms));
  for (const id of ["chart-requests", "chart-ttft", "chart-errors", "chart-days", "ring"]) {
    const drawn = await page.locator(`#${id}`).evaluate((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.some((value, at) => at % 4 === 3 && value > 0);
    });
    assert.ok(drawn, `${id} is not empty`);
  }
  await eventually(async () => {
    const newest = (await demo.get("/ui/history?after=0")).at(-1);
    const shown = await textOf(page, "#now-p50");
    return numberIn(shown) * (shown.includes("ms") ? 1 : 1000) === newest.ttft_p50_ms;
  }, SHOWN_WITHIN_MS, "the newest median agrees");
});

test("a decision opens its record: why, what the others would have cost, who was refused", async () => {
  await page.locator("#decisions-pause").click();
  const rows = page.locator("#decisions tr", { hasText: "llama-2-7b-chat" });
  if ((await rows.count()) === 0) await page.locator("#decisions-pause").click();
  await eventually(async () => (await rows.count()) > 0, 30_000, "a request that named a model");
  const id = await rows.first().getAttribute("data-id");
  await rows.first().locator("button.open").press("Enter");
  await page.waitForSelector("#record[open] .candidates");
  const record = await demo.get(`/ui/decisions/${id}`);
  assert.ok((await textOf(page, "#record-title")).includes(id));
  assert.equal(await page.locator("#record .candidates tbody tr").count(), record.candidates.length);
  assert.match(await textOf(page, "#record .record-why"), new RegExp(record.backend));
  for (const { backend } of record.candidates) assert.ok((await textOf(page, "#record .candidates")).includes(backend));
  assert.match(await textOf(page, "#record-body"), /Refused[\s\S]*not serve/);
  await shoot(page, "record", false);
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#record[open]").count(), 0);
});

test("nothing is loaded from elsewhere, nothing is inline, and nothing complains", async () => {
  assert.deepEqual([...page.asked], [demo.url]);
  const head = await fetch(demo.url);
  assert.match(head.headers.get("content-security-policy"), /default-src 'self'/);
  assert.doesNotMatch(head.headers.get("content-security-policy"), /unsafe/);
  assert.doesNotMatch(await head.text(), / style=| on\w+=|<style|<script(?! type="module" src=)/);
  assert.deepEqual(page.complaints, []);
});

test("it works in both schemes, on a phone, and for axe", async () => {
  for (const [name, options] of [["light", DESKTOP], ["dark", DARK], ["phone", PHONE]]) {
    const shown = await browser.open(demo.url, options);
    await shown.waitForSelector("[data-link=live]");
    for (const view of ["overview", "playground", "break"]) {
      await shown.locator(`.views a[data-view=${view}]`).click();
      await shown.waitForSelector(`#view-${view}:not([hidden])`);
      if (view === "break") await shown.waitForSelector("[data-break]");
      if (view === "overview") await eventually(() => shown.locator("#ring").evaluate((canvas) => canvas.width > 0 && Boolean(globalThis.Chart)), 10_000, "charts");
      assert.deepEqual(await violations(shown), [], `${name} ${view}`);
      const [wide, window] = await shown.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide <= window, `${name} ${view} is ${wide} wide in ${window}`);
      await shoot(shown, `${view}-${name}`);
    }
    assert.deepEqual(shown.complaints, []);
    await shown.context().close();
  }
});

test("the keyboard reaches everything, and its focus is seen", async () => {
  const shown = await browser.open(demo.url);
  await shown.waitForSelector("[data-link=live]");
  await shown.keyboard.press("Tab");
  assert.equal(await shown.evaluate(() => document.activeElement.className), "skip");
  const reached = new Set();
  for (let at = 0; at < 14; at += 1) {
    await shown.keyboard.press("Tab");
    const { name, outline } = await shown.evaluate(() => {
      const element = document.activeElement;
      return { name: element.dataset.view ?? element.id ?? element.tagName, outline: getComputedStyle(element).outlineStyle };
    });
    reached.add(name);
    assert.notEqual(outline, "none", `focus on ${name} is not seen`);
  }
  for (const view of ["overview", "playground", "break"]) assert.ok(reached.has(view), `${view} is not reached: ${[...reached]}`);
  await shown.context().close();
});

test("a thousand decisions a second do not stall it", async (t) => {
  const data = await demo.get("/ui/data");
  const shown = await browser.open("about:blank");
  let round = 0;
  await shown.route("**/ui/data", (route) => {
    round += 1;
    const decisions = Array.from({ length: 50 }, (_, at) => ({ ...data.decisions[0], id: `d-${round}-${at}` }));
    const totals = { ...data.totals, requests: data.totals.requests + round * 1000 };
    route.fulfill({ json: { ...data, totals, decisions, now_unix_ms: data.now_unix_ms + round * 1000 } });
  });
  await shown.goto(demo.url);
  await shown.evaluate(() => {
    globalThis.longest = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((one) => (globalThis.longest = Math.max(globalThis.longest, one.duration)))).observe({ type: "longtask" });
  });
  const from = round;
  await eventually(() => round > from + 4, 60_000, "figures go on coming");
  assert.match(await textOf(shown, "#decisions-note"), /newest 50 of 1,000/);
  assert.equal(await shown.locator("#decisions tr").count(), 50);
  const longest = await shown.evaluate(() => globalThis.longest);
  t.diagnostic(`longest task ${Math.round(longest)} ms`);
  // How long is the machine's affair where everything else runs too; that it goes on is not.
  const seen = round;
  await eventually(() => round > seen + 2, 60_000, "it still asks");
  await shown.context().close();
});

test("hostile names do nothing but stand there", async () => {
  const data = await demo.get("/ui/data");
  const hostile = `<img src=x onerror="globalThis.broken=1">"'><script>globalThis.broken=1</script>`;
  const shown = await browser.open("about:blank");
  await shown.route("**/ui/data", (route) => {
    const one = (value) => ({ ...value, model: hostile, reason: hostile });
    const backends = data.backends.map((backend, at) => (at ? backend : { ...backend, name: hostile, models: [hostile] }));
    const budgets = [{ ...data.budgets[0], scope: hostile }];
    const arms = [{ experiment: hostile, arm: hostile, requests: 1, served: 1, spend_usd: 0, ttft_avg_ms: 1 }];
    const members = [...data.members, { node: hostile, region: hostile, generation: 1, live: true, this_node: false }];
    route.fulfill({ json: { ...data, backends, budgets, arms, members, decisions: data.decisions.map(one) } });
  });
  await shown.goto(demo.url);
  await eventually(async () => (await textOf(shown, "#decisions")).includes("<img src=x"), 10_000, "the name is shown as text");
  assert.ok((await textOf(shown, "#fleet")).includes("<img src=x"));
  // The router itself takes such a name from a client: it ends in a decision.
  await fetch(`${demo.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify({ model: hostile, messages: [{ role: "user", content: hostile }] }) });
  assert.equal(await shown.evaluate(() => globalThis.broken ?? 0), 0);
  assert.equal(await shown.locator("main img, main script").count(), 0);
  assert.deepEqual(shown.complaints, []);
  await shown.context().close();
});

test("it is small, packed, and paints soon", async (t) => {
  const shown = await browser.open(demo.url);
  await shown.waitForSelector("[data-link=live]");
  await eventually(() => shown.evaluate(() => Boolean(globalThis.Chart)), 10_000, "the library is there");
  const bytes = await shown.evaluate(() => performance.getEntriesByType("resource").filter((one) => /\/ui\/[^/]+\.\w+$/.test(one.name)).reduce((sum, one) => sum + one.encodedBodySize, 0));
  assert.ok(bytes > 10_000 && bytes < 600 * 1024, `${bytes} bytes`);
  const paint = await shown.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
  t.diagnostic(`${bytes} bytes sent, first paint after ${Math.round(paint)} ms`);
  assert.ok(paint > 0);
  await shown.context().close();
});
