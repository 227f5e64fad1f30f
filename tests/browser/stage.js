// A demo and a browser for one test file. The binary is named by LLM_ROUTER_BIN, the browser by CHROMIUM.
// Both are ended by their own handles.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import axe from "axe-core";
import { chromium } from "playwright-core";

const STARTED_WITHIN_MS = 60_000;
const ENDED_WITHIN_MS = 20_000;
const SHOTS = process.env.SCREENSHOTS ?? "../../target/test-logs/screenshots";
const LEASH = existsSync("/usr/bin/setpriv") ? ["/usr/bin/setpriv", "--pdeathsig", "KILL"] : [];

export const DESKTOP = { viewport: { width: 1440, height: 900 } };
export const DARK = { ...DESKTOP, colorScheme: "dark" };
export const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };

const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until `condition` gives something true, and returns that. */
export async function eventually(condition, withinMs, what) {
  const deadline = performance.now() + withinMs;
  let last = null;
  for (;;) {
    try {
      const found = await condition();
      if (found) return found;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) assert.fail(`not within ${withinMs} ms: ${what}${last ? ` (${last.message})` : ""}`);
    await pause(100);
  }
}

/** The first of three free ports in a row. */
async function freePorts() {
  for (let attempt = 0; attempt < 50; attempt += 1) {
    const first = 20_000 + Math.floor(Math.random() * 20_000);
    const servers = [];
    try {
      for (let at = 0; at < 3; at += 1) {
        const server = createServer().listen(first + at, "127.0.0.1");
        servers.push(server);
        await once(server, "listening");
      }
      return first;
    } catch {
      // One of them is taken.
    } finally {
      await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
    }
  }
  return assert.fail("no three free ports in a row");
}

/** A running demo with its three regions. */
export class Demo {
  static async start(...options) {
    const demo = new Demo();
    const binary = process.env.LLM_ROUTER_BIN;
    assert.ok(binary, "set LLM_ROUTER_BIN to the llm-router binary, or run `bash tests/run browser`");
    const first = await freePorts();
    demo.urls = [0, 1, 2].map((at) => `http://127.0.0.1:${first + at}`);
    demo.url = demo.urls[0];
    const args = ["demo", "--port", String(first), "--no-open", "--duration", "10m", ...options];
    const [command, ...rest] = [...LEASH, binary, ...args];
    demo.output = "";
    // A key in the environment must not reach anything: no call may be paid for.
    const env = { ...process.env, LOG_LEVEL: "warn", OPENAI_API_KEY: "sk-of-the-tests" };
    demo.child = spawn(command, rest, { env, stdio: ["ignore", "pipe", "pipe"] });
    running.add(demo.child);
    demo.ended = once(demo.child, "exit").finally(() => running.delete(demo.child));
    for (const stream of [demo.child.stdout, demo.child.stderr]) stream.setEncoding("utf8").on("data", (text) => (demo.output += text));
    await eventually(async () => {
      assert.equal(demo.child.exitCode, null, `the demo ended:\n${demo.output}`);
      const ready = await Promise.all(demo.urls.map((url) => fetch(`${url}/readyz`).then((answer) => answer.ok)));
      return ready.every(Boolean);
    }, STARTED_WITHIN_MS, "the demo is ready");
    return demo;
  }

  /** JSON of a route, as the page asks for it. */
  async get(path, headers = {}) {
    const answer = await fetch(this.url + path, { headers: { "x-llm-router-page": "1", ...headers } });
    assert.ok(answer.ok, `${path}: ${answer.status}`);
    return answer.json();
  }

  /** The sum of a metric over the series whose labels have these values. */
  async metric(name, labels = {}) {
    const text = await fetch(`${this.url}/metrics`).then((answer) => answer.text());
    const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
    const lines = text.split("\n").filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
    return lines.filter((line) => wanted.every((part) => line.includes(part))).reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
  }

  async stop() {
    if (this.child.exitCode === null) this.child.kill("SIGTERM");
    const late = setTimeout(() => this.child.kill("SIGKILL"), ENDED_WITHIN_MS);
    const [code] = await this.ended;
    clearTimeout(late);
    assert.equal(code, 0, this.output.slice(-3000));
    assert.doesNotMatch(this.output, /panicked/);
  }
}

/** A browser whose pages complain about everything they log as an error. */
export class Browser {
  static async start() {
    const browser = new Browser();
    const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
    browser.chromium = await chromium.launch({
      executablePath,
      args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
    });
    return browser;
  }

  /** A page of its own profile. `complaints` collects what went wrong in it, `asked` where it loaded from. */
  async open(url, options = DESKTOP) {
    const context = await this.chromium.newContext(options);
    const page = await context.newPage();
    page.setDefaultTimeout(45_000);
    page.complaints = [];
    page.asked = new Set();
    page.on("pageerror", (error) => page.complaints.push(error.message));
    page.on("console", (message) => message.type() === "error" && page.complaints.push(message.text()));
    page.on("request", (request) => page.asked.add(new URL(request.url()).origin));
    await page.goto(url);
    return page;
  }

  async stop() {
    await this.chromium.close();
  }
}

/** Keeps a picture of the page beside the logs, for whoever wants to look. */
export async function shoot(page, name, fullPage = true) {
  mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: join(SHOTS, `${name}.png`), fullPage });
}

/** Serious and critical violations of axe's rules for WCAG 2 A and AA, in words. */
export async function violations(page) {
  // By the debugger's channel, so that the page's own policy stays in force.
  await page.evaluate(axe.source);
  const found = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] }));
  const grave = found.violations.filter((one) => ["serious", "critical"].includes(one.impact));
  return grave.flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.target.join(" ")} ${node.failureSummary}`));
}

/** Text of an element. */
export const textOf = (page, selector) => page.locator(selector).innerText();

/** The number a text begins with. */
export const numberIn = (text) => Number(text.replaceAll(",", "").replace("−", "-").replace("$", "").match(/-?[\d.]+/)?.[0] ?? NaN);
