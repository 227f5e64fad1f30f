"""The official Anthropic client against every kind of backend."""

from __future__ import annotations

import base64
import json

import anthropic
import pytest
import questions
from waiting import eventually

MESSAGES = [{"role": "user", "content": questions.PLAIN}]
TOOL_MESSAGES = [{"role": "user", "content": questions.FOR_A_TOOL}]
TOOLS = [
    {
        "name": questions.TOOL_NAME,
        "description": questions.TOOL_DESCRIPTION,
        "input_schema": questions.TOOL_SCHEMA,
    }
]
BOUND = 60


@pytest.fixture
def client(router):
    return anthropic.Anthropic(base_url=router.url, api_key="key-of-the-client", max_retries=0, timeout=30)


def test_a_message_is_answered_with_what_the_backend_counted(client, model, upstream):
    before = upstream.books()
    message = client.messages.create(model=model, system="Be brief.", messages=MESSAGES, max_tokens=BOUND)
    assert message.role == "assistant"
    assert message.content[0].type == "text"
    assert message.content[0].text
    assert message.stop_reason in ("end_turn", "max_tokens")
    after = upstream.books()
    assert message.usage.input_tokens == after["input_tokens"] - before["input_tokens"]
    assert message.usage.output_tokens == after["output_tokens"] - before["output_tokens"]


def test_a_stream_says_the_same_as_a_whole_message(client, model):
    whole = client.messages.create(model=model, messages=MESSAGES, max_tokens=BOUND)
    with client.messages.stream(model=model, messages=MESSAGES, max_tokens=BOUND) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_tool_is_called_and_its_result_is_taken(client, model):
    first = client.messages.create(model=model, messages=TOOL_MESSAGES, tools=TOOLS, max_tokens=BOUND)
    assert first.stop_reason == "tool_use"
    call = next(block for block in first.content if block.type == "tool_use")
    assert call.name == questions.TOOL_NAME
    questions.check_tool_arguments(call.input)

    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    history = [
        *TOOL_MESSAGES,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(model=model, messages=history, tools=TOOLS, max_tokens=BOUND)
    assert second.stop_reason == "end_turn"
    assert second.content[0].text


def test_a_tool_call_is_streamed_and_can_be_put_together(client, model):
    with client.messages.stream(model=model, messages=TOOL_MESSAGES, tools=TOOLS, max_tokens=BOUND) as stream:
        final = stream.get_final_message()
    call = next(block for block in final.content if block.type == "tool_use")
    assert final.stop_reason == "tool_use"
    questions.check_tool_arguments(call.input)


def test_a_tool_can_be_demanded(client, model):
    answer = client.messages.create(
        model=model, messages=MESSAGES, tools=TOOLS, max_tokens=BOUND, tool_choice={"type": "any"}
    )
    assert any(block.type == "tool_use" for block in answer.content)


def test_an_answer_fits_the_schema_that_was_asked_for(client, model):
    schema = {**questions.City.model_json_schema(), "additionalProperties": False}
    answer = client.messages.create(
        model=model,
        messages=MESSAGES,
        max_tokens=BOUND,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    questions.City.model_validate(json.loads(answer.content[0].text))


def test_an_image_goes_with_the_question(client, model):
    data = base64.b64encode(questions.PNG).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    answer = client.messages.create(model=model, messages=[{"role": "user", "content": content}], max_tokens=BOUND)
    assert answer.content[0].text


@pytest.mark.parametrize("kind", ["anthropic"])
def test_tokens_are_counted(client, model):
    assert client.messages.count_tokens(model=model, messages=MESSAGES).input_tokens > 0


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
    ],
)
def test_an_error_of_the_backend_is_the_clients_own_exception(client, model, upstream, status, error):
    upstream.set_faults([{"times": 1, "action": {"status": {"code": status}}}])
    with pytest.raises(error) as failed:
        client.messages.create(model=model, messages=MESSAGES, max_tokens=BOUND)
    assert failed.value.body["type"] == "error"
    assert failed.value.body["error"]["message"]
    if failed.value.status_code == 429:
        wait = int(failed.value.response.headers["retry-after"])
        eventually(lambda: client.messages.create(model=model, messages=MESSAGES, max_tokens=2), wait + 5, "it is over")


def test_an_unknown_model_is_refused_in_the_clients_dialect(client):
    with pytest.raises(anthropic.NotFoundError) as refused:
        client.messages.create(model="no-such-model", messages=MESSAGES, max_tokens=BOUND)
    assert refused.value.body["error"]["type"] == "not_found_error"


def test_a_broken_stream_is_an_exception_and_not_a_short_answer(client, model, upstream):
    upstream.set_faults([{"times": 1, "action": {"cut": {"afterTokens": 3}}}])
    with (
        pytest.raises(anthropic.APIError),
        client.messages.stream(model=model, messages=MESSAGES, max_tokens=BOUND) as stream,
    ):
        stream.get_final_message()
