"""Tool calls of a real llama-server, through the official clients of all three dialects.

The model (`tests/models/scripted_gguf.py`) always writes the same call; that llama-server reads it as a call,
and that it arrives whole in each dialect, is what is tested.
"""

from __future__ import annotations

import json

import anthropic
import pytest
import settings
import stage
from google import genai
from google.genai import types
from scripted_gguf import write

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ARGUMENTS = {"city": "Paris"}
ASK = "What is the weather in Paris?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OPENAI_TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def router(module_crew, tmp_path_factory):
    model = write(CALL, tmp_path_factory.mktemp("scripted") / "scripted.gguf")
    llama = stage.llama(module_crew, model, "scripted")
    node = settings.node(clusters=[settings.cluster("llama", llama.url, "scripted")])
    router = stage.router(module_crew, node)
    router.wait_for_health("llama", "healthy")
    return router


def test_a_whole_answer_carries_the_call_and_its_result_can_be_told(router):
    client = router.openai()
    asked = [{"role": "user", "content": ASK}]
    answer = client.chat.completions.create(model="scripted", messages=asked, tools=[OPENAI_TOOL])
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", ARGUMENTS)
    told = [*asked, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    after = client.chat.completions.create(model="scripted", messages=told, tools=[OPENAI_TOOL])
    assert after.usage.prompt_tokens > answer.usage.prompt_tokens, "the result is in the prompt"


def test_a_stream_carries_the_call_in_pieces(router):
    stream = router.openai().chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": ASK}], tools=[OPENAI_TOOL], stream=True
    )
    name, arguments, finish = "", "", None
    for chunk in stream:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    assert (name, json.loads(arguments), finish) == ("get_weather", ARGUMENTS, "tool_calls")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_an_anthropic_client_gets_the_call_as_a_tool_use(router, streamed):
    client = anthropic.Anthropic(base_url=router.url, api_key="none", max_retries=0)
    ask = {
        "model": "scripted",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": ASK}],
        "tools": [{"name": "get_weather", "input_schema": SCHEMA}],
    }
    if streamed:
        with client.messages.stream(**ask) as stream:
            answer = stream.get_final_message()
    else:
        answer = client.messages.create(**ask)
    [use] = [block for block in answer.content if block.type == "tool_use"]
    assert (answer.stop_reason, use.name, use.input) == ("tool_use", "get_weather", ARGUMENTS)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_gemini_client_gets_the_call_as_a_function_call(router, streamed):
    client = genai.Client(api_key="none", http_options=types.HttpOptions(base_url=router.url))
    tool = types.Tool(
        function_declarations=[types.FunctionDeclaration(name="get_weather", parameters_json_schema=SCHEMA)]
    )
    ask = {
        "model": "scripted",
        "contents": ASK,
        "config": types.GenerateContentConfig(
            tools=[tool], automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True)
        ),
    }
    chunks = list(client.models.generate_content_stream(**ask)) if streamed else [client.models.generate_content(**ask)]
    [call] = [call for chunk in chunks for call in chunk.function_calls or []]
    assert (call.name, call.args) == ("get_weather", ARGUMENTS)
