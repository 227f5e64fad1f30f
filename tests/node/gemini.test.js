// The official Gemini client against every kind of backend.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";

import { ApiError, FunctionCallingConfigMode, GoogleGenAI } from "@google/genai";

import { checkCity, checkToolArguments, CITY_SCHEMA, FOR_A_TOOL, PLAIN, PNG_BASE64 } from "./questions.js";
import { TOOL_DESCRIPTION, TOOL_NAME, TOOL_SCHEMA } from "./questions.js";
import { CLIENT_KEY, eventually, KINDS, Stage, TEXT_MODEL } from "./stage.js";

const TOOLS = [
  { functionDeclarations: [{ name: TOOL_NAME, description: TOOL_DESCRIPTION, parametersJsonSchema: TOOL_SCHEMA }] },
];
const BOUND = 20;

let stage;
let client;
before(async () => {
  stage = await Stage.open();
  const httpOptions = { baseUrl: stage.url, timeout: 30_000, retryOptions: { attempts: 1 } };
  client = new GoogleGenAI({ apiKey: CLIENT_KEY, vertexai: false, httpOptions });
});
after(() => stage?.close());

/** A stream to its end: its chunks, and its text. */
async function read(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return { chunks, text: chunks.map((chunk) => chunk.text ?? "").join("") };
}

for (const kind of KINDS) {
  describe(`gemini client, ${kind} backend`, () => {
    const model = `${kind}-model`;
    const request = (config, contents = PLAIN) => ({
      model,
      contents,
      config: { systemInstruction: "Be brief.", maxOutputTokens: BOUND, ...config },
    });
    const ask = (config, contents) => client.models.generateContent(request(config, contents));
    const stream = (config, contents) => client.models.generateContentStream(request(config, contents));
    afterEach(() => stage.mocks[kind].setFaults());

    test("a plain answer states the usage that the backend counted", async () => {
      const { result, requests, input, output } = await stage.mocks[kind].counted(() => ask());
      assert.ok(result.text);
      assert.equal(result.candidates[0].finishReason, "MAX_TOKENS");
      const usage = result.usageMetadata;
      assert.deepEqual([1, usage.promptTokenCount, usage.candidatesTokenCount], [requests, input, output]);
      assert.equal(usage.totalTokenCount, input + output);
      assert.equal(output, BOUND);
    });

    test("a stream says the same as a plain answer, piece by piece", async () => {
      const whole = await ask();
      const { chunks, text } = await read(await stream());
      assert.equal(text, whole.text);
      assert.ok(chunks.length > BOUND / 2, `${chunks.length} chunks are no stream`);
      assert.equal(chunks.at(-1).candidates[0].finishReason, whole.candidates[0].finishReason);
    });

    test("a stream ends with the usage that the backend counted", async () => {
      const counted = await stage.mocks[kind].counted(async () => read(await stream()));
      const usage = counted.result.chunks.at(-1).usageMetadata;
      assert.deepEqual([usage.promptTokenCount, usage.candidatesTokenCount], [counted.input, counted.output]);
      assert.equal(counted.output, BOUND);
    });

    for (const streamed of [false, true]) {
      const name = streamed ? "streamed tool arguments can be put together" : "a tool is called and its result is taken";
      test(name, async () => {
        const question = { role: "user", parts: [{ text: FOR_A_TOOL }] };
        const config = { tools: TOOLS, maxOutputTokens: 100 };
        const answers = streamed ? (await read(await stream(config, [question]))).chunks : [await ask(config, [question])];
        const parts = answers.flatMap((answer) => answer.candidates?.[0]?.content?.parts ?? []);
        const calls = parts.filter((part) => part.functionCall);
        assert.equal(calls.length, 1);
        const { functionCall } = calls[0];
        assert.equal(functionCall.name, TOOL_NAME);
        checkToolArguments(functionCall.args);

        const told = { role: "model", parts: calls };
        const { id } = functionCall;
        const result = { functionResponse: { id, name: TOOL_NAME, response: { weather: "sunny" } } };
        const second = await ask({ tools: TOOLS }, [question, told, { role: "user", parts: [result] }]);
        assert.ok(second.text);
        assert.equal(second.functionCalls, undefined);
      });
    }

    test("a tool can be demanded by name", async () => {
      const functionCallingConfig = { mode: FunctionCallingConfigMode.ANY, allowedFunctionNames: [TOOL_NAME] };
      const answer = await ask({ tools: TOOLS, toolConfig: { functionCallingConfig }, maxOutputTokens: 100 });
      assert.deepEqual(answer.functionCalls.map((call) => call.name), [TOOL_NAME]);
    });

    test("an answer fits the JSON schema that was asked for", async () => {
      const config = { responseMimeType: "application/json", responseJsonSchema: CITY_SCHEMA, maxOutputTokens: 200 };
      checkCity((await ask(config)).text);
    });

    test("an image in base64 goes with the question", async () => {
      const image = { inlineData: { mimeType: "image/png", data: PNG_BASE64 } };
      assert.ok((await ask({}, [{ role: "user", parts: [image, { text: "What is this?" }] }])).text);
    });

    if (kind !== "gemini") {
      test("a tool that only Gemini runs is refused, naming the field", async () => {
        const asked = ask({ tools: [{ googleSearch: {} }] });
        await assert.rejects(asked, failure(400, "INVALID_ARGUMENT", /`tools\[0\]\.googleSearch`/));
      });
    }

    if (kind === "anthropic") {
      test("what this backend cannot do is refused, naming the field", async () => {
        await assert.rejects(ask({ candidateCount: 2 }), failure(400, "INVALID_ARGUMENT", /candidateCount/));
        const asked = ask({ responseMimeType: "application/json" });
        await assert.rejects(asked, failure(400, "INVALID_ARGUMENT", /responseMimeType/));
      });

      test("what this backend can do without is dropped, and said so", async () => {
        const answer = await ask({ seed: 7 });
        assert.ok(answer.text);
        assert.equal(answer.sdkHttpResponse.headers["x-llm-router-dropped"], "generationConfig.seed");
      });
    }

    if (kind === "llama") {
      test("what this backend cannot do is refused, naming the field", async () => {
        const document = { inlineData: { mimeType: "application/pdf", data: "JVBERi0xLjQ=" } };
        const asked = ask({}, [{ role: "user", parts: [document] }]);
        await assert.rejects(asked, failure(400, "INVALID_ARGUMENT", /`contents\[0\]\.parts\[0\]`/));
      });
    }

    test("its model is listed and found", async () => {
      const names = [];
      for await (const listed of await client.models.list({ config: { queryBase: true } })) names.push(listed.name);
      assert.ok(names.includes(`models/${model}`), `${names}`);
      assert.equal((await client.models.get({ model })).name, `models/${model}`);
    });

    test("leaving a stream is felt by the backend", async () => {
      const { cancelled } = await stage.mocks[kind].books();
      await stage.mocks[kind].failOnce({ slow: { tokensPerSecond: 5 } });
      const abort = new AbortController();
      const answer = await stream({ maxOutputTokens: 400, abortSignal: abort.signal });
      await assert.rejects(async () => {
        for await (const chunk of answer) if (chunk.text) abort.abort();
      });
      const seen = async () => (await stage.mocks[kind].books()).cancelled === cancelled + 1;
      await eventually(seen, 1_000, "the backend saw the client leave");
    });

    test("aborting a plain request is felt by the backend", async () => {
      const { cancelled } = await stage.mocks[kind].books();
      await stage.mocks[kind].failOnce({ slow: { tokensPerSecond: 5 } });
      const abort = new AbortController();
      const asked = ask({ maxOutputTokens: 400, abortSignal: abort.signal });
      await eventually(async () => (await stage.mocks[kind].books()).in_flight === 1, 5_000, "the backend is at work");
      abort.abort();
      await assert.rejects(asked);
      const seen = async () => (await stage.mocks[kind].books()).cancelled === cancelled + 1;
      await eventually(seen, 1_000, "the backend saw the client leave");
    });

    test("twenty at once each get their own answer", async () => {
      const questions = Array.from({ length: 20 }, (_, number) => `Question ${number}`);
      const whole = (await Promise.all(questions.map((question) => ask({}, question)))).map((answer) => answer.text);
      const streamed = await Promise.all(questions.map(async (question) => read(await stream({}, question))));
      assert.equal(new Set(whole).size, 20);
      assert.deepEqual(streamed.map((answer) => answer.text), whole);
    });

    test("a stream that breaks is an error and not a short answer", async () => {
      await stage.mocks[kind].failOnce({ cut: { afterTokens: 4 } });
      await assert.rejects(stream().then(read));
    });

    for (const [status, told, word] of [
      [400, 400, "INVALID_ARGUMENT"],
      [401, 401, "UNAUTHENTICATED"],
      [404, 404, "NOT_FOUND"],
      [500, 502, "INTERNAL"],
      [503, 503, "UNAVAILABLE"],
      [429, 429, "RESOURCE_EXHAUSTED"],
    ]) {
      test(`status ${status} of the backend is the client's own error`, async () => {
        await stage.mocks[kind].failOnce({ status: { code: status, retryAfter: 1 } });
        await assert.rejects(ask(), failure(told, word, /./));
        await eventually(() => ask().catch(() => false), 10_000, "it is over");
      });
    }
  });
}

test("an unknown model is refused in the client's dialect", async () => {
  const asked = client.models.generateContent({ model: "no-such-model", contents: PLAIN });
  await assert.rejects(asked, failure(404, "NOT_FOUND", /no-such-model/));
  await assert.rejects(client.models.get({ model: "no-such-model" }), failure(404, "NOT_FOUND", /no-such-model/));
});

test("what the model cannot do is refused, naming the field", async () => {
  const ask = (config, contents = PLAIN) => client.models.generateContent({ model: TEXT_MODEL, contents, config });
  const refused = (field) => failure(400, "INVALID_ARGUMENT", new RegExp(`\`${field}\``));
  const image = { inlineData: { mimeType: "image/png", data: PNG_BASE64 } };
  await assert.rejects(ask({}, [{ role: "user", parts: [image] }]), refused("contents"));
  await assert.rejects(ask({ tools: TOOLS }), refused("tools"));
  const responseMimeType = "application/json";
  await assert.rejects(ask({ responseMimeType }), refused("generationConfig.responseMimeType"));
});

/** Accepts an error with this status, in Gemini's own shape, which the client keeps as text. */
function failure(status, word, message) {
  return (error) => {
    assert.ok(error instanceof ApiError, `${error.constructor.name}: ${error.message}`);
    assert.equal(error.status, status);
    const told = JSON.parse(error.message).error;
    assert.deepEqual([told.code, told.status], [status, word]);
    assert.match(told.message, message);
    assert.ok(!error.message.includes(CLIENT_KEY));
    return true;
  };
}
