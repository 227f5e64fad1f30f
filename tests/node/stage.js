// The processes of a test file: a mock upstream of each kind and one router node in front of them.
// The binary is named by LLM_ROUTER_BIN. Every process is ended by its own handle, and must end well.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The kinds of backend, with the word a configuration file has for each provider's type. */
const PROVIDER_TYPES = { openai: "openai", anthropic: "claude", gemini: "gemini" };
export const KINDS = ["llama", ...Object.keys(PROVIDER_TYPES)];
/** A model that can chat and nothing else. */
export const TEXT_MODEL = "text-model";
/** The key that clients send; it must reach no backend. */
export const CLIENT_KEY = "key-of-the-client";
const PROVIDER_KEY = "provider-key-of-the-tests";
const CAPABILITIES = ["chat", "completion", "embedding", "vision", "tools", "json"];
const STARTED_WITHIN_MS = 20_000;
const STOPPED_WITHIN_MS = 20_000;
const ENVIRONMENT = {
  ...process.env,
  LOG_LEVEL: "info",
  RUST_LOG: "",
  NO_COLOR: "1",
  TEST_PROVIDER_KEY: PROVIDER_KEY,
};

// Where there is one, the kernel ends a process whose test file was killed, which cannot do so itself.
const LEASH = existsSync("/usr/bin/setpriv") ? ["/usr/bin/setpriv", "--pdeathsig", "KILL"] : [];
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

/** Waits until `condition` gives something true, and returns that. */
export async function eventually(condition, withinMs, what) {
  const deadline = performance.now() + withinMs;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (performance.now() > deadline) assert.fail(`not within ${withinMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** One command of the binary that runs until it is told to end. */
class Service {
  constructor(name, args) {
    const binary = process.env.LLM_ROUTER_BIN;
    assert.ok(binary, "set LLM_ROUTER_BIN to the llm-router binary, or run `bash tests/run node`");
    this.name = name;
    this.output = "";
    const [command, ...rest] = [...LEASH, binary, ...args];
    this.child = spawn(command, rest, { env: ENVIRONMENT, stdio: ["ignore", "pipe", "pipe"] });
    running.add(this.child);
    this.ended = once(this.child, "exit").finally(() => running.delete(this.child));
    const keep = (text) => (this.output += text);
    this.child.stdout.setEncoding("utf8").on("data", keep);
    this.child.stderr.setEncoding("utf8").on("data", keep);
  }

  /** The URL of the listener whose log line matches; its port was the system's choice. */
  async listening(line) {
    const address = await eventually(
      () => {
        assert.equal(this.child.exitCode, null, `${this.name} ended:\n${this.output}`);
        return line.exec(this.output)?.[1];
      },
      STARTED_WITHIN_MS,
      `${this.name} listens`,
    );
    this.url = `http://${address}`;
  }

  /** Asks it to end and expects exit code 0 and no panic, survived or not. */
  async stop() {
    if (this.child.exitCode === null) this.child.kill("SIGTERM");
    const late = setTimeout(() => this.child.kill("SIGKILL"), STOPPED_WITHIN_MS);
    const [code, signal] = await this.ended;
    clearTimeout(late);
    assert.doesNotMatch(this.output, /panicked at/, `${this.name} panicked`);
    assert.deepEqual([code, signal], [0, null], `${this.name} on SIGTERM:\n${this.output}`);
  }
}

/** A simulated upstream that keeps books of what it was asked. */
class Mock extends Service {
  constructor(kind) {
    const pace = ["--ttft-ms", "5", "--tokens-per-second", "2000", "--slots", "32"];
    const key = kind === "llama" ? [] : ["--api-key", PROVIDER_KEY];
    super(`mock ${kind}`, ["mock", "--kind", kind, "--listen", "127.0.0.1:0", "--model", `${kind}-model`, ...pace, ...key]);
    this.kind = kind;
  }

  async books() {
    return (await fetch(`${this.url}/mock/books`)).json();
  }

  /** Replaces its fault rules. */
  async setFaults(...rules) {
    const answer = await fetch(`${this.url}/mock/faults`, { method: "POST", body: JSON.stringify(rules) });
    assert.equal(answer.status, 200, await answer.text());
  }

  /** The next request, and only that one, meets `action`. */
  async failOnce(action) {
    await this.setFaults({ times: 1, action });
  }

  /** What the books say moved while `work` ran. */
  async counted(work) {
    const before = await this.books();
    const result = await work();
    const after = await this.books();
    const moved = (name) => after[name] - before[name];
    return { result, requests: moved("requests"), input: moved("input_tokens"), output: moved("output_tokens") };
  }
}

/** A mock of each kind and a ready router in front of them. Each kind serves the model `KIND-model`. */
export class Stage {
  static async open() {
    const stage = new Stage();
    stage.folder = await mkdtemp(join(tmpdir(), "llm-router-node-"));
    stage.mocks = Object.fromEntries(KINDS.map((kind) => [kind, new Mock(kind)]));
    try {
      await Promise.all(Object.values(stage.mocks).map((mock) => mock.listening(/mock is listening addr=(\S+)/)));
      const file = join(stage.folder, "router.yaml");
      // JSON is YAML.
      await writeFile(file, JSON.stringify(settings(stage.mocks)));
      stage.router = new Service("router", ["serve", "--config", file]);
      await stage.router.listening(/listening\b.* addr=(\S+)/);
      stage.url = stage.router.url;
      await eventually(() => stage.servesAll(), STARTED_WITHIN_MS, "the router serves every kind's model");
    } catch (error) {
      await stage.close().catch(() => {});
      throw error;
    }
    return stage;
  }

  async servesAll() {
    const list = await (await fetch(`${this.url}/v1/models`)).json();
    return KINDS.every((kind) => list.data.some((model) => model.id === `${kind}-model`));
  }

  async close() {
    const services = [this.router, ...Object.values(this.mocks)].filter(Boolean);
    const stopped = await Promise.allSettled(services.map((service) => service.stop()));
    await rm(this.folder, { recursive: true });
    const failed = stopped.find((one) => one.status === "rejected");
    if (failed) throw failed.reason;
  }
}

function settings(mocks) {
  const cluster = {
    name: "llama",
    endpoint: mocks.llama.url,
    region: "us-west-2",
    provider: "aws",
    costPerHour: 0.0928,
    authType: "none",
    models: [{ name: "llama-model" }],
    capabilities: CAPABILITIES,
  };
  const providers = Object.entries(PROVIDER_TYPES).map(([kind, type]) => ({
    name: kind,
    type,
    enabled: true,
    apiKey: "${TEST_PROVIDER_KEY}",
    baseURL: mocks[kind].url,
    defaultModel: `${kind}-model`,
    models: [{ name: `${kind}-model`, price: { input: 10, output: 30 } }],
    capabilities: CAPABILITIES,
  }));
  const textOnly = {
    ...providers[0],
    name: "text-only",
    defaultModel: TEXT_MODEL,
    models: [{ name: TEXT_MODEL }],
    capabilities: ["chat"],
  };
  return {
    server: { host: "127.0.0.1", port: 0 },
    node: { name: "node-under-test", region: "us-west-2" },
    router: {
      routingStrategy: "cluster_first",
      healthCheckInterval: "2s",
      metricsUpdateInterval: "2s",
      stickinessWindow: "0s",
      // A request of the router's own would stand in the books.
      calibrateThroughput: false,
    },
    clusters: [cluster],
    externalProviders: [...providers, textOnly],
  };
}
