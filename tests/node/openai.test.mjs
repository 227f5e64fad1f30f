// The official OpenAI client for Node against every kind of backend.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import OpenAI from "openai";
import * as q from "./questions.mjs";

const client = new OpenAI({ baseURL: `${q.ROUTER}/v1`, apiKey: "key-of-the-client", maxRetries: 0, timeout: 30_000 });
const messages = [{ role: "user", content: q.PLAIN }];
const tools = [
  {
    type: "function",
    function: { name: q.TOOL_NAME, description: q.TOOL_DESCRIPTION, parameters: q.TOOL_SCHEMA },
  },
];

for (const kind of q.KINDS) {
  describe(`openai client, ${kind} backend`, () => {
    const model = q.modelOf(kind);

    test("a stream says the same as a whole answer, usage included", async () => {
      const whole = await client.chat.completions.create({ model, messages, max_tokens: 40 });
      let text = "";
      let usage = null;
      const options = { model, messages, max_tokens: 40, stream: true, stream_options: { include_usage: true } };
      for await (const chunk of await client.chat.completions.create(options)) {
        text += chunk.choices[0]?.delta?.content ?? "";
        usage = chunk.usage ?? usage;
      }
      assert.ok(text.length > 0);
      assert.equal(text, whole.choices[0].message.content);
      assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
      assert.equal(usage.prompt_tokens, whole.usage.prompt_tokens);
    });

    test("a tool is called, whole and streamed", async () => {
      const question = { model, messages: [{ role: "user", content: q.FOR_A_TOOL }], tools };
      const whole = await client.chat.completions.create(question);
      const streamed = await client.chat.completions.stream(question).finalChatCompletion();
      for (const answer of [whole, streamed]) {
        assert.equal(answer.choices[0].finish_reason, "tool_calls");
        const call = answer.choices[0].message.tool_calls[0];
        assert.equal(call.function.name, q.TOOL_NAME);
        assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)).sort(), ["city", "days"]);
      }
    });

    test("an answer fits the schema that was asked for", async () => {
      const format = { type: "json_schema", json_schema: { name: "city", schema: q.CITY_SCHEMA, strict: true } };
      const answer = await client.chat.completions.create({ model, messages, response_format: format });
      const city = JSON.parse(answer.choices[0].message.content);
      assert.equal(typeof city.name, "string");
      assert.ok(Number.isInteger(city.population));
    });

    test("an image goes with the question", async () => {
      const content = [
        { type: "text", text: "What is this?" },
        { type: "image_url", image_url: { url: `data:image/png;base64,${q.PNG}` } },
      ];
      const answer = await client.chat.completions.create({ model, messages: [{ role: "user", content }] });
      assert.ok(answer.choices[0].message.content);
    });

    for (const [status, error] of [
      [400, OpenAI.BadRequestError],
      [404, OpenAI.NotFoundError],
      [500, OpenAI.InternalServerError],
    ]) {
      test(`status ${status} of the backend is the client's own exception`, async () => {
        await q.breakOnce(kind, { status: { code: status } });
        await assert.rejects(client.chat.completions.create({ model, messages }), error);
      });
    }

    test("a broken stream is an exception and not a short answer", async () => {
      await q.breakOnce(kind, { cut: { afterTokens: 3 } });
      await assert.rejects(async () => {
        for await (const _ of await client.chat.completions.create({ model, messages, stream: true }));
      }, OpenAI.APIError);
    });

    test("leaving a stream is felt by the backend", async () => {
      const { cancelled } = await q.books(kind);
      await q.breakOnce(kind, { slow: { tokensPerSecond: 5 } });
      const stream = await client.chat.completions.create({ model, messages, max_tokens: 400, stream: true });
      for await (const _ of stream) break;
      stream.controller.abort();
      await q.eventually(async () => (await q.books(kind)).cancelled === cancelled + 1, 1_000, "the client's end is felt");
    });
  });
}

test("embeddings are served and models are listed", async () => {
  const answer = await client.embeddings.create({ model: q.modelOf("openai"), input: ["one", "two"] });
  assert.equal(answer.data.length, 2);
  assert.ok(answer.data[0].embedding.length > 0);
  const listed = [];
  for await (const model of client.models.list()) listed.push(model.id);
  for (const kind of q.KINDS) assert.ok(listed.includes(q.modelOf(kind)), `${kind}: ${listed}`);
});

test("a response is answered and streamed", async () => {
  const question = { model: q.modelOf("openai"), input: q.PLAIN };
  const whole = await client.responses.create(question);
  assert.ok(whole.output_text);
  let text = "";
  for await (const event of await client.responses.create({ ...question, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.equal(text, whole.output_text);
});

test("twenty at once each get their own answer", async () => {
  const ask = async (nth) => {
    const options = { model: q.modelOf(q.KINDS[nth % q.KINDS.length]), max_tokens: 20 };
    options.messages = [{ role: "user", content: `Question number ${nth}` }];
    const whole = await client.chat.completions.create(options);
    let text = "";
    for await (const chunk of await client.chat.completions.create({ ...options, stream: true })) {
      text += chunk.choices[0]?.delta?.content ?? "";
    }
    assert.equal(text, whole.choices[0].message.content);
  };
  await Promise.all(Array.from({ length: 20 }, (_, nth) => ask(nth)));
});
