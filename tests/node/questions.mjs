// What all official Node clients ask, and the node they ask it. See ../python/sdk/questions.py.

export const ROUTER = process.env.ROUTER_URL;
// Base URL of the mock behind each kind of backend.
export const UPSTREAMS = JSON.parse(process.env.UPSTREAM_URLS ?? "{}");
export const KINDS = Object.keys(UPSTREAMS);

export const PLAIN = "What is a router?";
export const FOR_A_TOOL = "use_tool: what is the weather in Paris?";
export const TOOL_NAME = "get_weather";
export const TOOL_DESCRIPTION = "Tells the weather of a city.";
export const TOOL_SCHEMA = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
};
export const CITY_SCHEMA = {
  type: "object",
  properties: { name: { type: "string" }, population: { type: "integer" } },
  required: ["name", "population"],
  additionalProperties: false,
};
export const PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg==";

export function modelOf(kind) {
  return `${kind}-model`;
}

/** Lets the next request to this backend go wrong, and only that. */
export async function breakOnce(kind, action) {
  const response = await fetch(`${UPSTREAMS[kind]}/mock/faults`, {
    method: "POST",
    body: JSON.stringify([{ times: 1, action }]),
  });
  if (!response.ok) throw new Error(await response.text());
}

/** What the backend counted. */
export async function books(kind) {
  return (await fetch(`${UPSTREAMS[kind]}/mock/books`)).json();
}

/** Waits until `condition` holds; fails after `within` milliseconds. */
export async function eventually(condition, within, what) {
  const deadline = Date.now() + within;
  for (;;) {
    if (await condition()) return;
    if (Date.now() > deadline) throw new Error(`not within ${within} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
