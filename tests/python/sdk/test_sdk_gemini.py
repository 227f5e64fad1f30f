"""The official Gemini client against every kind of backend."""

from __future__ import annotations

import json

import pytest
import questions
from google import genai
from google.genai import errors, types
from waiting import eventually

TOOL = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name=questions.TOOL_NAME,
            description=questions.TOOL_DESCRIPTION,
            parameters_json_schema=questions.TOOL_SCHEMA,
        )
    ]
)
BY_HAND = types.AutomaticFunctionCallingConfig(disable=True)


@pytest.fixture
def client(router):
    return genai.Client(
        api_key="key-of-the-client", vertexai=False, http_options=types.HttpOptions(base_url=router.url, timeout=30_000)
    )


def config(**more):
    return types.GenerateContentConfig(max_output_tokens=60, automatic_function_calling=BY_HAND, **more)


def test_a_question_is_answered_with_what_the_backend_counted(client, model, upstream):
    before = upstream.books()
    answer = client.models.generate_content(
        model=model, contents=questions.PLAIN, config=config(system_instruction="Be brief.")
    )
    assert answer.text
    assert answer.candidates[0].finish_reason in (types.FinishReason.STOP, types.FinishReason.MAX_TOKENS)
    after = upstream.books()
    assert answer.usage_metadata.prompt_token_count == after["input_tokens"] - before["input_tokens"]
    assert answer.usage_metadata.candidates_token_count == after["output_tokens"] - before["output_tokens"]


def test_a_stream_says_the_same_as_a_whole_answer(client, model):
    whole = client.models.generate_content(model=model, contents=questions.PLAIN, config=config())
    chunks = list(client.models.generate_content_stream(model=model, contents=questions.PLAIN, config=config()))
    assert "".join(chunk.text or "" for chunk in chunks) == whole.text
    assert len(chunks) > 1
    assert chunks[-1].usage_metadata.candidates_token_count == whole.usage_metadata.candidates_token_count
    assert chunks[-1].candidates[0].finish_reason == whole.candidates[0].finish_reason


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_tool_is_called_and_its_result_is_taken(client, model, streamed):
    question = types.Content(role="user", parts=[types.Part(text=questions.FOR_A_TOOL)])
    if streamed:
        chunks = list(
            client.models.generate_content_stream(model=model, contents=[question], config=config(tools=[TOOL]))
        )
        calls = [call for chunk in chunks for call in chunk.function_calls or []]
    else:
        answer = client.models.generate_content(model=model, contents=[question], config=config(tools=[TOOL]))
        calls = answer.function_calls
    assert [call.name for call in calls] == [questions.TOOL_NAME]
    questions.check_tool_arguments(dict(calls[0].args))

    told = types.Part(
        function_response=types.FunctionResponse(id=calls[0].id, name=calls[0].name, response={"weather": "sunny"})
    )
    history = [
        question,
        types.Content(role="model", parts=[types.Part(function_call=calls[0])]),
        types.Content(role="user", parts=[told]),
    ]
    assert client.models.generate_content(model=model, contents=history, config=config(tools=[TOOL])).text


def test_an_answer_fits_the_schema_that_was_asked_for(client, model):
    answer = client.models.generate_content(
        model=model,
        contents=questions.PLAIN,
        config=config(response_mime_type="application/json", response_json_schema=questions.City.model_json_schema()),
    )
    questions.City.model_validate(json.loads(answer.text))


def test_an_image_goes_with_the_question(client, model):
    image = types.Part.from_bytes(data=questions.PNG, mime_type="image/png")
    assert client.models.generate_content(model=model, contents=[image, "What is this?"], config=config()).text


@pytest.mark.parametrize(("status", "code"), [(400, 400), (404, 404), (429, 429), (500, None)])
def test_an_error_of_the_backend_is_the_clients_own_exception(client, model, upstream, status, code):
    upstream.set_faults([{"times": 1, "action": {"status": {"code": status}}}])
    with pytest.raises(errors.ClientError if status < 500 else errors.ServerError) as failed:
        client.models.generate_content(model=model, contents=questions.PLAIN, config=config())
    assert code is None or failed.value.code == code
    assert failed.value.message
    assert failed.value.status
    if status == 429:
        eventually(
            lambda: client.models.generate_content(model=model, contents=questions.PLAIN, config=config()),
            10,
            "it is over",
        )


def test_an_unknown_model_is_refused_in_the_clients_dialect(client):
    with pytest.raises(errors.ClientError) as refused:
        client.models.generate_content(model="no-such-model", contents=questions.PLAIN, config=config())
    assert (refused.value.code, refused.value.status) == (404, "NOT_FOUND")


def test_a_broken_stream_is_an_exception_and_not_a_short_answer(client, model, upstream):
    upstream.set_faults([{"times": 1, "action": {"cut": {"afterTokens": 3}}}])
    with pytest.raises(errors.APIError):
        list(client.models.generate_content_stream(model=model, contents=questions.PLAIN, config=config()))
