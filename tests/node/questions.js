// What all clients ask.

import assert from "node:assert/strict";

export const PLAIN = "What is a router?";
/** The mock calls a tool when it reads this word. */
export const FOR_A_TOOL = "use_tool: what is the weather in Paris?";
export const TOOL_NAME = "get_weather";
export const TOOL_DESCRIPTION = "Tells the weather of a city.";
export const TOOL_SCHEMA = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
/** What is asked for as JSON. */
export const CITY_SCHEMA = {
  type: "object",
  properties: { name: { type: "string" }, population: { type: "integer" } },
  required: ["name", "population"],
  additionalProperties: false,
};
/** One white pixel. */
export const PNG_BASE64 =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg==";

/** Fails unless the arguments fit the tool's schema. */
export function checkToolArguments(told) {
  assert.deepEqual(Object.keys(told).sort(), ["city", "days"]);
  assert.equal(typeof told.city, "string");
  assert.ok(Number.isInteger(told.days));
}

/** Fails unless this JSON text fits the schema of a city. */
export function checkCity(text) {
  const told = JSON.parse(text);
  assert.deepEqual(Object.keys(told).sort(), ["name", "population"]);
  assert.equal(typeof told.name, "string");
  assert.ok(Number.isInteger(told.population));
}
