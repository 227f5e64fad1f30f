"""The official OpenAI client against every kind of backend."""

from __future__ import annotations

import base64
import json

import openai
import pytest
import questions
from waiting import eventually

MESSAGES = [{"role": "user", "content": questions.PLAIN}]
TOOL_MESSAGES = [{"role": "user", "content": questions.FOR_A_TOOL}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": questions.TOOL_NAME,
            "description": questions.TOOL_DESCRIPTION,
            "parameters": questions.TOOL_SCHEMA,
        },
    }
]
EMBEDDING_KINDS = ["llama", "openai", "gemini"]


@pytest.fixture
def client(router):
    return router.openai()


def test_a_tool_is_called_and_its_result_is_taken(client, model):
    first = client.chat.completions.create(model=model, messages=TOOL_MESSAGES, tools=TOOLS)
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert call.id
    assert call.function.name == questions.TOOL_NAME
    questions.check_tool_arguments(json.loads(call.function.arguments))

    result = {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "sunny"}'}
    history = [*TOOL_MESSAGES, choice.message.model_dump(exclude_none=True), result]
    second = client.chat.completions.create(model=model, messages=history, tools=TOOLS)
    assert second.choices[0].finish_reason == "stop"
    assert second.choices[0].message.content


def test_a_tool_call_is_streamed_and_can_be_put_together(client, model):
    with client.chat.completions.stream(
        model=model, messages=TOOL_MESSAGES, tools=TOOLS, stream_options={"include_usage": True}
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    call = final.choices[0].message.tool_calls[0]
    assert (bool(call.id), call.function.name) == (True, questions.TOOL_NAME)
    questions.check_tool_arguments(json.loads(call.function.arguments))
    assert final.usage.completion_tokens > 0


def test_a_tool_can_be_demanded(client, model):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, tools=TOOLS, tool_choice="required")
    assert answer.choices[0].message.tool_calls[0].function.name == questions.TOOL_NAME


def test_an_answer_fits_the_schema_that_was_asked_for(client, model):
    answer = client.chat.completions.parse(model=model, messages=MESSAGES, response_format=questions.City)
    assert isinstance(answer.choices[0].message.parsed, questions.City)


def test_an_image_goes_with_the_question(client, model):
    url = f"data:image/png;base64,{base64.b64encode(questions.PNG).decode()}"
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content


@pytest.mark.parametrize("kind", EMBEDDING_KINDS)
def test_embeddings_are_served(client, model):
    answer = client.embeddings.create(model=model, input=["one", "two"])
    first, second = (row.embedding for row in answer.data)
    assert len(first) == len(second) > 0
    assert first != second
    assert answer.usage.prompt_tokens > 0


def test_a_response_is_answered_and_streamed(client, model):
    whole = client.responses.create(model=model, input=questions.PLAIN, max_output_tokens=40)
    assert whole.output_text
    assert whole.status in ("completed", "incomplete")
    assert whole.usage.output_tokens > 0

    pieces, final = [], None
    for event in client.responses.create(model=model, input=questions.PLAIN, max_output_tokens=40, stream=True):
        if event.type == "response.output_text.delta":
            pieces.append(event.delta)
        if event.type in ("response.completed", "response.incomplete"):
            final = event.response
    assert "".join(pieces) == whole.output_text
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_response_that_leans_on_a_stored_one_is_refused_by_the_field(client, model):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=model, input="And then?", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_an_error_of_the_backend_is_the_clients_own_exception(client, model, upstream, status, error):
    upstream.set_faults([{"times": 1, "action": {"status": {"code": status}}}])
    with pytest.raises(error) as failed:
        client.chat.completions.create(model=model, messages=MESSAGES)
    assert failed.value.body["message"]
    assert failed.value.body["type"]
    if failed.value.status_code in (429, 503):
        wait = int(failed.value.response.headers["retry-after"])
        assert wait >= 1
        eventually(
            lambda: client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=2), wait + 5, "it is over"
        )


def test_a_broken_stream_is_an_exception_and_not_a_short_answer(client, model, upstream):
    upstream.set_faults([{"times": 1, "action": {"cut": {"afterTokens": 3}}}])
    with pytest.raises(openai.APIError):
        for _ in client.chat.completions.create(model=model, messages=MESSAGES, stream=True):
            pass


def test_leaving_a_stream_is_felt_by_the_backend(client, model, upstream):
    cancelled = upstream.books()["cancelled"]
    upstream.set_faults([{"times": 1, "action": {"slow": {"tokensPerSecond": 5}}}])
    stream = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=400, stream=True)
    next(iter(stream))
    stream.close()
    eventually(lambda: upstream.books()["cancelled"] == cancelled + 1, 1.0, "the backend saw the client leave")
