// One request through a router's public API, read as it streams. No element of the page is touched here.

import { byId } from "./dom.js";

const OUTPUT_TOKENS = 512;

/** The address of `path` at the router of `region`; this one's where that is empty. */
export const routePath = (region, path) => (region ? `/ui/demo/regions/${encodeURIComponent(region)}/${path}` : `/${path}`);

/** Headers of a request as the form stands. */
export function headersOf({ strategy }) {
  const key = byId("ask-key").value.trim();
  return {
    "content-type": "application/json",
    "x-llm-router-page": "1",
    ...(strategy && { "x-llm-router-strategy": strategy }),
    ...(key && { authorization: `Bearer ${key}` }),
  };
}

/** The body of a request. */
export const bodyOf = ({ model, messages, stream }) =>
  JSON.stringify({ model, messages, max_tokens: OUTPUT_TOKENS, ...(stream && { stream: true, stream_options: { include_usage: true } }) });

/**
 * Sends `request` (`region, model, strategy, messages`) and reads the answer. `on.head(route)` once the
 * router has decided, `on.piece(text, ms)` for each piece, `on.usage(usage)`. Throws in words.
 */
export async function ask(request, on, signal) {
  const started = performance.now();
  const path = routePath(request.region, "v1/chat/completions");
  const options = { method: "POST", headers: headersOf(request), body: bodyOf({ ...request, stream: true }), signal };
  const response = await fetch(path, options);
  on.head(routeOf(response.headers));
  if (!response.ok) throw new Error(await errorText(response));
  await readEvents(response.body, (chunk) => {
    if (chunk.error) throw new Error(`The stream broke off: ${chunk.error.message ?? "unknown error"}`);
    const piece = chunk.choices?.[0]?.delta?.content;
    if (piece) on.piece(piece, performance.now() - started);
    if (chunk.usage) on.usage(chunk.usage);
  });
  return performance.now() - started;
}

function routeOf(headers) {
  const header = (name) => headers.get(`x-llm-router-${name}`);
  const cost = header("cost-usd");
  return {
    backend: header("backend"),
    reason: header("reason"),
    region: header("region"),
    attempts: header("attempts"),
    decision: header("decision"),
    cost: cost !== null && Number.isFinite(Number(cost)) ? Number(cost) : null,
  };
}

/** What an answer that is an error says. */
export async function errorText(response) {
  const told = await response.json().catch(() => null);
  const message = told?.error?.message ?? "";
  const hint = response.status === 401 ? " Enter an API key above." : "";
  return `Status ${response.status}${message ? `: ${message}` : ""}.${hint}`.replace("..", ".");
}

/** What went wrong, in words for the page. */
export const wordsOf = (error) => (error instanceof TypeError ? "The router could not be reached, or the connection broke." : error.message);

async function readEvents(body, onChunk) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (event && event !== "[DONE]") onChunk(JSON.parse(event));
    }
  }
}
