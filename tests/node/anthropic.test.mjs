// The official Anthropic client for Node against every kind of backend.

import Anthropic from "@anthropic-ai/sdk";
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as q from "./questions.mjs";

const client = new Anthropic({ baseURL: q.ROUTER, apiKey: "key-of-the-client", maxRetries: 0, timeout: 30_000 });
const messages = [{ role: "user", content: q.PLAIN }];
const tools = [{ name: q.TOOL_NAME, description: q.TOOL_DESCRIPTION, input_schema: q.TOOL_SCHEMA }];
const max_tokens = 60;

for (const kind of q.KINDS) {
  describe(`anthropic client, ${kind} backend`, () => {
    const model = q.modelOf(kind);

    test("a stream says the same as a whole message, usage included", async () => {
      const whole = await client.messages.create({ model, messages, max_tokens });
      const final = await client.messages.stream({ model, messages, max_tokens }).finalMessage();
      assert.ok(whole.content[0].text);
      assert.equal(final.content[0].text, whole.content[0].text);
      assert.equal(final.stop_reason, whole.stop_reason);
      assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
    });

    test("a tool is called, whole and streamed, and its result is taken", async () => {
      const question = { model, tools, max_tokens, messages: [{ role: "user", content: q.FOR_A_TOOL }] };
      const whole = await client.messages.create(question);
      const streamed = await client.messages.stream(question).finalMessage();
      for (const answer of [whole, streamed]) {
        assert.equal(answer.stop_reason, "tool_use");
        const call = answer.content.find((block) => block.type === "tool_use");
        assert.equal(call.name, q.TOOL_NAME);
        assert.deepEqual(Object.keys(call.input).sort(), ["city", "days"]);
      }
      const call = whole.content.find((block) => block.type === "tool_use");
      const history = [
        ...question.messages,
        { role: "assistant", content: whole.content },
        { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "sunny" }] },
      ];
      const second = await client.messages.create({ ...question, messages: history });
      assert.ok(second.content[0].text);
    });

    test("an image goes with the question", async () => {
      const source = { type: "base64", media_type: "image/png", data: q.PNG };
      const content = [{ type: "image", source }, { type: "text", text: "What is this?" }];
      const answer = await client.messages.create({ model, max_tokens, messages: [{ role: "user", content }] });
      assert.ok(answer.content[0].text);
    });

    for (const [status, error] of [
      [400, Anthropic.BadRequestError],
      [404, Anthropic.NotFoundError],
      [500, Anthropic.InternalServerError],
    ]) {
      test(`status ${status} of the backend is the client's own exception`, async () => {
        await q.breakOnce(kind, { status: { code: status } });
        await assert.rejects(client.messages.create({ model, messages, max_tokens }), error);
      });
    }

    test("a broken stream is an exception and not a short answer", async () => {
      await q.breakOnce(kind, { cut: { afterTokens: 3 } });
      await assert.rejects(client.messages.stream({ model, messages, max_tokens }).finalMessage(), Anthropic.APIError);
    });
  });
}
