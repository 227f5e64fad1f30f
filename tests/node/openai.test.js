// The official OpenAI client against every kind of backend.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";

import OpenAI from "openai";

import { checkCity, checkToolArguments, CITY_SCHEMA, FOR_A_TOOL, PLAIN, PNG_BASE64 } from "./questions.js";
import { TOOL_DESCRIPTION, TOOL_NAME, TOOL_SCHEMA } from "./questions.js";
import { CLIENT_KEY, eventually, KINDS, Stage, TEXT_MODEL } from "./stage.js";

const MESSAGES = [
  { role: "system", content: "Be brief." },
  { role: "user", content: PLAIN },
];
const TOOL_MESSAGES = [{ role: "user", content: FOR_A_TOOL }];
const TOOLS = [
  { type: "function", function: { name: TOOL_NAME, description: TOOL_DESCRIPTION, parameters: TOOL_SCHEMA } },
];
const RESPONSES_TOOLS = [
  { type: "function", name: TOOL_NAME, description: TOOL_DESCRIPTION, parameters: TOOL_SCHEMA, strict: true },
];
const BOUND = 20;
const EMBEDDING_KINDS = ["llama", "openai", "gemini"];
const COMPLETION_KINDS = ["llama", "openai"];

let stage;
let client;
before(async () => {
  stage = await Stage.open();
  client = new OpenAI({ baseURL: `${stage.url}/v1`, apiKey: CLIENT_KEY, maxRetries: 0, timeout: 30_000 });
});
after(() => stage?.close());

/** A stream to its end: its chunks, and its text. */
async function read(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
  return { chunks, text };
}

for (const kind of KINDS) {
  describe(`openai client, ${kind} backend`, () => {
    const model = `${kind}-model`;
    const ask = (more = {}, options = {}) =>
      client.chat.completions.create({ model, messages: MESSAGES, max_tokens: BOUND, ...more }, options);
    afterEach(() => stage.mocks[kind].setFaults());

    test("a plain answer states the usage that the backend counted", async () => {
      const { result, requests, input, output } = await stage.mocks[kind].counted(() => ask());
      assert.equal(result.object, "chat.completion");
      assert.ok(result.choices[0].message.content);
      assert.equal(result.choices[0].finish_reason, "length");
      assert.deepEqual([1, result.usage.prompt_tokens, result.usage.completion_tokens], [requests, input, output]);
      assert.equal(result.usage.total_tokens, input + output);
      assert.equal(output, BOUND);
    });

    test("a stream says the same as a plain answer and hides the usage nobody asked for", async () => {
      const whole = await ask();
      const { chunks, text } = await read(await ask({ stream: true }));
      assert.equal(text, whole.choices[0].message.content);
      assert.ok(chunks.length > BOUND / 2, `${chunks.length} chunks are no stream`);
      assert.ok(chunks.every((chunk) => chunk.choices.length === 1 && !chunk.usage));
      assert.equal(chunks.at(-1).choices[0].finish_reason, whole.choices[0].finish_reason);
    });

    test("a stream ends with the usage that the backend counted", async () => {
      const { result, input, output } = await stage.mocks[kind].counted(async () =>
        read(await ask({ stream: true, stream_options: { include_usage: true } })),
      );
      const last = result.chunks.at(-1);
      assert.deepEqual(last.choices, []);
      assert.deepEqual([last.usage.prompt_tokens, last.usage.completion_tokens], [input, output]);
      assert.equal(output, BOUND);
    });

    test("a tool is called and its result is taken", async () => {
      const first = await ask({ messages: TOOL_MESSAGES, tools: TOOLS, max_tokens: 100 });
      const { message, finish_reason } = first.choices[0];
      assert.equal(finish_reason, "tool_calls");
      assert.equal(message.tool_calls.length, 1);
      const [call] = message.tool_calls;
      assert.ok(call.id);
      assert.equal(call.function.name, TOOL_NAME);
      checkToolArguments(JSON.parse(call.function.arguments));

      const result = { role: "tool", tool_call_id: call.id, content: '{"weather": "sunny"}' };
      const second = await ask({ messages: [...TOOL_MESSAGES, message, result], tools: TOOLS });
      assert.equal(second.choices[0].finish_reason, "length");
      assert.ok(second.choices[0].message.content);
      assert.equal(second.choices[0].message.tool_calls ?? undefined, undefined);
    });

    test("streamed tool arguments can be put together", async () => {
      const stream = client.chat.completions.stream({ model, messages: TOOL_MESSAGES, tools: TOOLS, max_tokens: 100 });
      const final = await stream.finalChatCompletion();
      assert.equal(final.choices[0].finish_reason, "tool_calls");
      const [call] = final.choices[0].message.tool_calls;
      assert.ok(call.id);
      assert.equal(call.function.name, TOOL_NAME);
      checkToolArguments(JSON.parse(call.function.arguments));
    });

    test("a tool can be demanded by name", async () => {
      const tool_choice = { type: "function", function: { name: TOOL_NAME } };
      const answer = await ask({ tools: TOOLS, tool_choice, max_tokens: 100 });
      assert.equal(answer.choices[0].message.tool_calls[0].function.name, TOOL_NAME);
    });

    test("an answer fits the JSON schema that was asked for", async () => {
      const json_schema = { name: "city", strict: true, schema: CITY_SCHEMA };
      const answer = await ask({ response_format: { type: "json_schema", json_schema }, max_tokens: 200 });
      checkCity(answer.choices[0].message.content);
    });

    test("an image in a data URL goes with the question", async () => {
      const url = `data:image/png;base64,${PNG_BASE64}`;
      const content = [
        { type: "text", text: "What is this?" },
        { type: "image_url", image_url: { url } },
      ];
      const answer = await ask({ messages: [{ role: "user", content }] });
      assert.ok(answer.choices[0].message.content);
    });

    test("a response is answered, and streamed with the same text and usage", async () => {
      const request = { model, input: PLAIN, max_output_tokens: BOUND };
      const { result: whole, input, output } = await stage.mocks[kind].counted(() => client.responses.create(request));
      assert.ok(whole.output_text);
      assert.equal(whole.status, "incomplete");
      assert.deepEqual([whole.usage.input_tokens, whole.usage.output_tokens], [input, output]);

      let text = "";
      let final;
      for await (const event of await client.responses.create({ ...request, stream: true })) {
        if (event.type === "response.output_text.delta") text += event.delta;
        if (event.type === "response.incomplete") final = event.response;
      }
      assert.equal(text, whole.output_text);
      assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
    });

    test("a response calls a tool and takes its result", async () => {
      const input = [{ role: "user", content: FOR_A_TOOL }];
      const first = await client.responses.create({ model, input, tools: RESPONSES_TOOLS });
      const call = first.output.find((item) => item.type === "function_call");
      assert.equal(call.name, TOOL_NAME);
      checkToolArguments(JSON.parse(call.arguments));
      const result = { type: "function_call_output", call_id: call.call_id, output: "sunny" };
      const second = await client.responses.create({
        model,
        input: [...input, ...first.output, result],
        tools: RESPONSES_TOOLS,
      });
      assert.ok(second.output_text);
    });

    if (EMBEDDING_KINDS.includes(kind)) {
      // The client asks for base64 by itself and decodes it.
      test("embeddings are served, in numbers and in base64", async () => {
        const input = ["one", "two"];
        const packed = await client.embeddings.create({ model, input });
        const plain = await client.embeddings.create({ model, input, encoding_format: "float" });
        assert.deepEqual(packed.data.map((row) => row.index), [0, 1]);
        assert.ok(packed.data[0].embedding.length > 1);
        assert.notDeepEqual(packed.data[0].embedding, packed.data[1].embedding);
        assert.deepEqual(
          packed.data[0].embedding.map(Math.fround),
          plain.data[0].embedding.map(Math.fround),
        );
        assert.ok(packed.usage.prompt_tokens > 0);
      });
    } else {
      test("embeddings are refused, naming the field", async () => {
        await assert.rejects(client.embeddings.create({ model, input: "one" }), refusal("model"));
      });
    }

    if (COMPLETION_KINDS.includes(kind)) {
      test("a legacy completion is answered and streamed", async () => {
        const request = { model, prompt: PLAIN, max_tokens: BOUND };
        const whole = await client.completions.create(request);
        let text = "";
        for await (const chunk of await client.completions.create({ ...request, stream: true })) {
          text += chunk.choices[0]?.text ?? "";
        }
        assert.ok(text);
        assert.equal(text, whole.choices[0].text);
      });
    } else {
      test("a legacy completion is refused, naming the field", async () => {
        await assert.rejects(client.completions.create({ model, prompt: PLAIN }), refusal("model"));
      });
    }

    if (kind === "anthropic") {
      test("what this backend cannot do is refused, naming the field", async () => {
        await assert.rejects(ask({ n: 2 }), refusal("n"));
        await assert.rejects(ask({ logprobs: true }), refusal("logprobs"));
        await assert.rejects(ask({ response_format: { type: "json_object" } }), refusal("response_format"));
        const audio = { type: "input_audio", input_audio: { data: "UklGRg==", format: "wav" } };
        const messages = [{ role: "user", content: [audio] }];
        await assert.rejects(ask({ messages }), refusal("messages[0].content[0].type"));
      });

      test("what this backend can do without is dropped, and said so", async () => {
        const { data, response } = await ask({ seed: 7 }).withResponse();
        assert.ok(data.choices[0].message.content);
        assert.equal(response.headers.get("x-llm-router-dropped"), "seed");
      });
    }

    test("its model is listed and found", async () => {
      const names = [];
      for await (const listed of client.models.list()) names.push(listed.id);
      assert.ok(names.includes(model), `${names}`);
      assert.equal((await client.models.retrieve(model)).owned_by, kind);
    });

    test("leaving a stream is felt by the backend", async () => {
      const { cancelled } = await stage.mocks[kind].books();
      await stage.mocks[kind].failOnce({ slow: { tokensPerSecond: 5 } });
      const stream = await ask({ stream: true, max_tokens: 400 });
      for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
      stream.controller.abort();
      const seen = async () => (await stage.mocks[kind].books()).cancelled === cancelled + 1;
      await eventually(seen, 1_000, "the backend saw the client leave");
    });

    test("aborting a plain request is felt by the backend", async () => {
      const { cancelled } = await stage.mocks[kind].books();
      await stage.mocks[kind].failOnce({ slow: { tokensPerSecond: 5 } });
      const abort = new AbortController();
      const asked = ask({ max_tokens: 400 }, { signal: abort.signal });
      await eventually(async () => (await stage.mocks[kind].books()).in_flight === 1, 5_000, "the backend is at work");
      abort.abort();
      await assert.rejects(asked, OpenAI.APIUserAbortError);
      const seen = async () => (await stage.mocks[kind].books()).cancelled === cancelled + 1;
      await eventually(seen, 1_000, "the backend saw the client leave");
    });

    test("twenty at once each get their own answer", async () => {
      const questions = Array.from({ length: 20 }, (_, number) => [{ role: "user", content: `Question ${number}` }]);
      const whole = await Promise.all(questions.map((messages) => ask({ messages })));
      const streamed = await Promise.all(questions.map(async (messages) => read(await ask({ messages, stream: true }))));
      const texts = whole.map((answer) => answer.choices[0].message.content);
      assert.equal(new Set(texts).size, 20);
      assert.deepEqual(streamed.map((answer) => answer.text), texts);
    });

    test("a stream that breaks is an error and not a short answer", async () => {
      await stage.mocks[kind].failOnce({ cut: { afterTokens: 4 } });
      await assert.rejects(ask({ stream: true }).then(read), OpenAI.APIError);
    });

    for (const [status, type] of [
      [400, OpenAI.BadRequestError],
      [401, OpenAI.AuthenticationError],
      [404, OpenAI.NotFoundError],
      [500, OpenAI.InternalServerError],
      [503, OpenAI.InternalServerError],
      [429, OpenAI.RateLimitError],
    ]) {
      test(`status ${status} of the backend is the client's own error`, async () => {
        await stage.mocks[kind].failOnce({ status: { code: status, retryAfter: 1 } });
        await assert.rejects(ask(), (error) => {
          assert.ok(error instanceof type, `${error.constructor.name}: ${error.message}`);
          assert.ok(error.type, "it has a type");
          assert.ok(error.error.message, "it has a message");
          assert.ok(!error.message.includes(CLIENT_KEY));
          if ([429, 503].includes(status)) assert.equal(error.headers.get("retry-after"), "1");
          return true;
        });
        await eventually(() => ask().catch(() => false), 10_000, "it is over");
      });
    }
  });
}

describe("openai client, any backend", () => {
  test("an unknown model is refused in the client's dialect", async () => {
    const asked = client.chat.completions.create({ model: "no-such-model", messages: MESSAGES });
    await assert.rejects(asked, (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.deepEqual([error.code, error.param], ["model_not_found", "model"]);
      return true;
    });
    await assert.rejects(client.models.retrieve("no-such-model"), OpenAI.NotFoundError);
  });

  test("what the model cannot do is refused, naming the field", async () => {
    const ask = (more) => client.chat.completions.create({ model: TEXT_MODEL, messages: MESSAGES, ...more });
    const url = `data:image/png;base64,${PNG_BASE64}`;
    const image = [{ role: "user", content: [{ type: "image_url", image_url: { url } }] }];
    await assert.rejects(ask({ messages: image }), refusal("messages"));
    await assert.rejects(ask({ tools: TOOLS }), refusal("tools"));
    await assert.rejects(ask({ response_format: { type: "json_object" } }), refusal("response_format"));
    await assert.rejects(client.embeddings.create({ model: TEXT_MODEL, input: "one" }), refusal("model"));
  });

  test("a response that leans on a stored one is refused, naming the field", async () => {
    const asked = client.responses.create({ model: "openai-model", input: "And then?", previous_response_id: "resp_1" });
    await assert.rejects(asked, refusal("previous_response_id"));
  });
});

/** Accepts a refusal with status 400 that names `field`. */
function refusal(field) {
  return (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError, `${error.constructor.name}: ${error.message}`);
    assert.equal(error.param, field);
    return true;
  };
}
