// The demo behind a password.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Browser, Demo, eventually, shoot, textOf, violations } from "./stage.js";

const PASSWORD = "correct horse # battery: staple";
let demo;
let browser;

before(async () => {
  demo = await Demo.start("--password", PASSWORD);
  browser = await Browser.start();
});
after(() => Promise.all([browser?.stop(), demo?.stop()]));

test("without a session there are no figures, no records and nothing to break", async () => {
  const headers = { "x-llm-router-page": "1" };
  for (const path of ["/ui/data", "/ui/history", "/ui/decisions/x", "/ui/demo"]) {
    assert.equal((await fetch(demo.url + path, { headers })).status, 401, path);
  }
  for (const path of ["/ui/demo/burst/all", "/ui/explain", "/ui/demo/regions/eastus/ui/explain"]) {
    assert.equal((await fetch(demo.url + path, { method: "POST", headers, body: "{}" })).status, 401, path);
  }
});

test("the password opens the page, for all three regions at once", async () => {
  const page = await browser.open(demo.url);
  await page.waitForSelector("#login[open]");
  assert.deepEqual(await violations(page), []);
  await shoot(page, "login", false);
  await page.locator("#login-password").fill("wrong");
  await page.keyboard.press("Enter");
  await eventually(async () => (await textOf(page, "#login-error")).includes("wrong password"), 10_000, "a wrong one is told");
  await page.locator("#login-password").fill(PASSWORD);
  await page.locator("#login-send").click();
  await page.waitForSelector("[data-link=live]");
  assert.equal(await page.locator("#login[open]").count(), 0);
  const [cookie] = await page.context().cookies();
  assert.ok(cookie.httpOnly && cookie.sameSite === "Strict" && cookie.expires > Date.now() / 1000 + 3000, JSON.stringify(cookie));
  await page.locator("a[data-view=break]").click();
  await page.locator('[data-break="slow/aws-cpu"]').click();
  await page.waitForSelector('[data-break="slow/aws-cpu"][aria-pressed=true]');
  await page.goto(demo.urls[2]);
  await page.waitForSelector("[data-link=live]");
  await page.context().close();
});

test("guessing is slowed down, by address", async () => {
  const guess = () => fetch(`${demo.urls[1]}/api/auth`, { method: "POST", body: JSON.stringify({ password: "guess" }) });
  const statuses = [];
  for (let at = 0; at < 125; at += 1) statuses.push((await guess()).status);
  assert.equal(statuses[0], 401);
  assert.equal(statuses.at(-1), 429);
});
