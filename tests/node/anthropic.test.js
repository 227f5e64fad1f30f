// The official Anthropic client against every kind of backend.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";

import { checkCity, checkToolArguments, CITY_SCHEMA, FOR_A_TOOL, PLAIN, PNG_BASE64 } from "./questions.js";
import { TOOL_DESCRIPTION, TOOL_NAME, TOOL_SCHEMA } from "./questions.js";
import { CLIENT_KEY, eventually, KINDS, Stage, TEXT_MODEL } from "./stage.js";

const MESSAGES = [{ role: "user", content: PLAIN }];
const TOOL_MESSAGES = [{ role: "user", content: FOR_A_TOOL }];
const TOOLS = [{ name: TOOL_NAME, description: TOOL_DESCRIPTION, input_schema: TOOL_SCHEMA }];
const BOUND = 20;

let stage;
let client;
before(async () => {
  stage = await Stage.open();
  client = new Anthropic({ baseURL: stage.url, apiKey: CLIENT_KEY, maxRetries: 0, timeout: 30_000 });
});
after(() => stage?.close());

/** The text of all text blocks. */
const textOf = (message) => message.content.flatMap((block) => (block.type === "text" ? [block.text] : [])).join("");

for (const kind of KINDS) {
  describe(`anthropic client, ${kind} backend`, () => {
    const model = `${kind}-model`;
    const body = (more) => ({ model, system: "Be brief.", messages: MESSAGES, max_tokens: BOUND, ...more });
    const ask = (more = {}, options = {}) => client.messages.create(body(more), options);
    afterEach(() => stage.mocks[kind].setFaults());

    test("a plain answer states the usage that the backend counted", async () => {
      const { result, requests, input, output } = await stage.mocks[kind].counted(() => ask());
      assert.deepEqual([result.type, result.role, result.stop_reason], ["message", "assistant", "max_tokens"]);
      assert.ok(textOf(result));
      assert.deepEqual([1, result.usage.input_tokens, result.usage.output_tokens], [requests, input, output]);
      assert.equal(output, BOUND);
    });

    test("a stream says the same as a plain answer, piece by piece", async () => {
      const whole = await ask();
      const stream = client.messages.stream(body());
      const pieces = [];
      stream.on("text", (piece) => pieces.push(piece));
      const final = await stream.finalMessage();
      assert.equal(pieces.join(""), textOf(whole));
      assert.ok(pieces.length > BOUND / 2, `${pieces.length} pieces are no stream`);
      assert.deepEqual(final.content, whole.content);
      assert.equal(final.stop_reason, whole.stop_reason);
    });

    test("a stream ends with the usage that the backend counted", async () => {
      const { result, input, output } = await stage.mocks[kind].counted(async () => {
        const events = [];
        for await (const event of await ask({ stream: true })) events.push(event);
        return events;
      });
      assert.equal(result[0].type, "message_start");
      assert.equal(result.at(-1).type, "message_stop");
      const { usage } = result.findLast((event) => event.type === "message_delta");
      assert.deepEqual([usage.input_tokens ?? result[0].message.usage.input_tokens, usage.output_tokens], [input, output]);
      assert.equal(output, BOUND);
    });

    test("a tool is called and its result is taken", async () => {
      const first = await ask({ messages: TOOL_MESSAGES, tools: TOOLS, max_tokens: 100 });
      assert.equal(first.stop_reason, "tool_use");
      const calls = first.content.filter((block) => block.type === "tool_use");
      assert.equal(calls.length, 1);
      assert.ok(calls[0].id);
      assert.equal(calls[0].name, TOOL_NAME);
      checkToolArguments(calls[0].input);

      const told = { role: "assistant", content: first.content };
      const result = { type: "tool_result", tool_use_id: calls[0].id, content: "sunny" };
      const messages = [...TOOL_MESSAGES, told, { role: "user", content: [result] }];
      const second = await ask({ messages, tools: TOOLS });
      assert.equal(second.stop_reason, "max_tokens");
      assert.ok(textOf(second));
    });

    test("streamed tool arguments can be put together", async () => {
      const stream = client.messages.stream(body({ messages: TOOL_MESSAGES, tools: TOOLS, max_tokens: 100 }));
      let pieces = 0;
      stream.on("inputJson", () => (pieces += 1));
      const final = await stream.finalMessage();
      assert.equal(final.stop_reason, "tool_use");
      assert.ok(pieces > 0);
      const call = final.content.find((block) => block.type === "tool_use");
      assert.equal(call.name, TOOL_NAME);
      checkToolArguments(call.input);
    });

    test("a tool can be demanded by name", async () => {
      const tool_choice = { type: "tool", name: TOOL_NAME };
      const answer = await ask({ tools: TOOLS, tool_choice, max_tokens: 100 });
      assert.equal(answer.content.find((block) => block.type === "tool_use").name, TOOL_NAME);
    });

    test("an answer fits the JSON schema that was asked for", async () => {
      const output_config = { format: { type: "json_schema", schema: CITY_SCHEMA } };
      checkCity(textOf(await ask({ output_config, max_tokens: 200 })));
    });

    test("an image in base64 goes with the question", async () => {
      const source = { type: "base64", media_type: "image/png", data: PNG_BASE64 };
      const content = [{ type: "image", source }, { type: "text", text: "What is this?" }];
      assert.ok(textOf(await ask({ messages: [{ role: "user", content }] })));
    });

    test("tokens are counted, or estimated where the backend cannot count", async () => {
      const asked = client.messages.countTokens({ model, system: "Be brief.", messages: MESSAGES });
      const { data, response } = await asked.withResponse();
      if (kind === "openai") {
        assert.ok(data.input_tokens > 0);
        assert.ok(response.headers.get("x-llm-router-estimated"), "an estimate says so");
      } else {
        assert.equal(data.input_tokens, (await ask()).usage.input_tokens);
        assert.equal(response.headers.get("x-llm-router-estimated"), null);
      }
    });

    if (kind !== "anthropic") {
      test("a tool that only Anthropic runs is refused, naming the field", async () => {
        const asked = ask({ tools: [{ type: "web_search_20250305", name: "web_search" }] });
        await assert.rejects(asked, failure(Anthropic.BadRequestError, "invalid_request_error", /`tools\[0\]\.type`/));
      });
    }

    if (kind === "llama") {
      test("what this backend cannot do is refused, naming the field", async () => {
        const source = { type: "base64", media_type: "application/pdf", data: "JVBERi0xLjQ=" };
        const asked = ask({ messages: [{ role: "user", content: [{ type: "document", source }] }] });
        const field = /`messages\[0\]\.content\[0\]`/;
        await assert.rejects(asked, failure(Anthropic.BadRequestError, "invalid_request_error", field));
      });

      test("what this backend can do without is dropped, and said so", async () => {
        const { data, response } = await ask({ service_tier: "auto" }).withResponse();
        assert.ok(textOf(data));
        assert.equal(response.headers.get("x-llm-router-dropped"), "service_tier");
      });
    }

    test("its model is listed and found", async () => {
      const names = [];
      for await (const listed of client.models.list()) {
        assert.equal(listed.type, "model");
        assert.ok(listed.display_name);
        assert.ok(Number.isFinite(Date.parse(listed.created_at)));
        names.push(listed.id);
      }
      assert.ok(names.includes(model), `${names}`);
      const found = await client.models.retrieve(model);
      assert.deepEqual([found.type, found.id], ["model", model]);
    });

    test("leaving a stream is felt by the backend", async () => {
      const { cancelled } = await stage.mocks[kind].books();
      await stage.mocks[kind].failOnce({ slow: { tokensPerSecond: 5 } });
      const stream = await ask({ stream: true, max_tokens: 400 });
      for await (const event of stream) if (event.type === "content_block_delta") break;
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
      await assert.rejects(asked, Anthropic.APIUserAbortError);
      const seen = async () => (await stage.mocks[kind].books()).cancelled === cancelled + 1;
      await eventually(seen, 1_000, "the backend saw the client leave");
    });

    test("twenty at once each get their own answer", async () => {
      const questions = Array.from({ length: 20 }, (_, number) => [{ role: "user", content: `Question ${number}` }]);
      const whole = (await Promise.all(questions.map((messages) => ask({ messages })))).map(textOf);
      const streams = questions.map((messages) => client.messages.stream(body({ messages })).finalMessage());
      assert.equal(new Set(whole).size, 20);
      assert.deepEqual((await Promise.all(streams)).map(textOf), whole);
    });

    test("a stream that breaks is an error and not a short answer", async () => {
      await stage.mocks[kind].failOnce({ cut: { afterTokens: 4 } });
      await assert.rejects(client.messages.stream(body()).finalMessage(), Anthropic.APIError);
    });

    for (const [status, type, word] of [
      [400, Anthropic.BadRequestError, "invalid_request_error"],
      [401, Anthropic.AuthenticationError, "authentication_error"],
      [404, Anthropic.NotFoundError, "not_found_error"],
      [500, Anthropic.InternalServerError, "api_error"],
      [503, Anthropic.InternalServerError, "overloaded_error"],
      [429, Anthropic.RateLimitError, "rate_limit_error"],
    ]) {
      test(`status ${status} of the backend is the client's own error`, async () => {
        await stage.mocks[kind].failOnce({ status: { code: status, retryAfter: 1 } });
        await assert.rejects(ask(), (error) => {
          failure(type, word, /./)(error);
          if ([429, 503].includes(status)) assert.equal(error.headers.get("retry-after"), "1");
          return true;
        });
        await eventually(() => ask().catch(() => false), 10_000, "it is over");
      });
    }
  });
}

test("an unknown model is refused in the client's dialect", async () => {
  const asked = client.messages.create({ model: "no-such-model", messages: MESSAGES, max_tokens: BOUND });
  await assert.rejects(asked, failure(Anthropic.NotFoundError, "not_found_error", /no-such-model/));
  const found = client.models.retrieve("no-such-model");
  await assert.rejects(found, failure(Anthropic.NotFoundError, "not_found_error", /no-such-model/));
});

test("what the model cannot do is refused, naming the field", async () => {
  const ask = (more) => client.messages.create({ model: TEXT_MODEL, messages: MESSAGES, max_tokens: BOUND, ...more });
  const refused = (field) => failure(Anthropic.BadRequestError, "invalid_request_error", new RegExp(`\`${field}\``));
  const source = { type: "base64", media_type: "image/png", data: PNG_BASE64 };
  await assert.rejects(ask({ messages: [{ role: "user", content: [{ type: "image", source }] }] }), refused("messages"));
  await assert.rejects(ask({ tools: TOOLS }), refused("tools"));
  const output_config = { format: { type: "json_schema", schema: CITY_SCHEMA } };
  await assert.rejects(ask({ output_config }), refused("output_config"));
});

/** Accepts an error of this class, in Anthropic's own shape. */
function failure(type, word, message) {
  return (error) => {
    assert.ok(error instanceof type, `${error.constructor.name}: ${error.message}`);
    assert.equal(error.error.type, "error");
    assert.equal(error.error.error.type, word);
    assert.match(error.error.error.message, message);
    assert.ok(!error.message.includes(CLIENT_KEY));
    return true;
  };
}
