// The official Gemini client for Node against every kind of backend.

import { ApiError, GoogleGenAI } from "@google/genai";
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as q from "./questions.mjs";

const client = new GoogleGenAI({ apiKey: "key-of-the-client", vertexai: false, httpOptions: { baseUrl: q.ROUTER } });
const config = { maxOutputTokens: 60 };
const tools = [
  {
    functionDeclarations: [
      { name: q.TOOL_NAME, description: q.TOOL_DESCRIPTION, parametersJsonSchema: q.TOOL_SCHEMA },
    ],
  },
];

for (const kind of q.KINDS) {
  describe(`gemini client, ${kind} backend`, () => {
    const model = q.modelOf(kind);

    test("a stream says the same as a whole answer, usage included", async () => {
      const whole = await client.models.generateContent({ model, contents: q.PLAIN, config });
      let text = "";
      let usage = null;
      for await (const chunk of await client.models.generateContentStream({ model, contents: q.PLAIN, config })) {
        text += chunk.text ?? "";
        usage = chunk.usageMetadata ?? usage;
      }
      assert.ok(text.length > 0);
      assert.equal(text, whole.text);
      assert.equal(usage.candidatesTokenCount, whole.usageMetadata.candidatesTokenCount);
    });

    test("a tool is called, whole and streamed", async () => {
      const question = { model, contents: q.FOR_A_TOOL, config: { ...config, tools } };
      const whole = await client.models.generateContent(question);
      const calls = [];
      for await (const chunk of await client.models.generateContentStream(question)) {
        calls.push(...(chunk.functionCalls ?? []));
      }
      for (const found of [whole.functionCalls, calls]) {
        assert.deepEqual(found.map((call) => call.name), [q.TOOL_NAME]);
        assert.deepEqual(Object.keys(found[0].args).sort(), ["city", "days"]);
      }
    });

    test("an answer fits the schema that was asked for", async () => {
      const json = { ...config, responseMimeType: "application/json", responseJsonSchema: q.CITY_SCHEMA };
      const answer = await client.models.generateContent({ model, contents: q.PLAIN, config: json });
      const city = JSON.parse(answer.text);
      assert.equal(typeof city.name, "string");
      assert.ok(Number.isInteger(city.population));
    });

    test("an image goes with the question", async () => {
      const contents = [{ inlineData: { mimeType: "image/png", data: q.PNG } }, { text: "What is this?" }];
      const answer = await client.models.generateContent({ model, contents, config });
      assert.ok(answer.text);
    });

    for (const status of [400, 404, 500]) {
      test(`status ${status} of the backend is the client's own exception`, async () => {
        await q.breakOnce(kind, { status: { code: status } });
        await assert.rejects(client.models.generateContent({ model, contents: q.PLAIN, config }), (error) => {
          assert.ok(error instanceof ApiError);
          if (status < 500) assert.equal(error.status, status);
          else assert.ok(error.status >= 500);
          return true;
        });
      });
    }
  });
}
