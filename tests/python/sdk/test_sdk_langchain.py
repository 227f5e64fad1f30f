"""LangChain's OpenAI client against every kind of backend."""

from __future__ import annotations

import pytest
import questions
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings


def get_weather(city: str, days: int) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city} for {days} days"


@pytest.fixture
def chat(router, model):
    return ChatOpenAI(
        base_url=f"{router.url}/v1", api_key="none", model=model, max_retries=0, timeout=30, max_tokens=60
    )


def test_it_invokes_and_streams(chat):
    whole = chat.invoke(questions.PLAIN)
    assert whole.content
    assert whole.usage_metadata["output_tokens"] > 0
    pieces = list(chat.stream(questions.PLAIN, stream_usage=True))
    assert "".join(piece.content for piece in pieces) == whole.content
    total = pieces[0]
    for piece in pieces[1:]:
        total += piece
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert total.usage_metadata[name] == whole.usage_metadata[name]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_it_binds_tools(chat, streamed):
    bound = chat.bind_tools([get_weather])
    question = HumanMessage(questions.FOR_A_TOOL)
    if streamed:
        pieces = list(bound.stream([question]))
        answer = pieces[0]
        for piece in pieces[1:]:
            answer += piece
    else:
        answer = bound.invoke([question])
    call = answer.tool_calls[0]
    assert call["name"] == questions.TOOL_NAME
    questions.check_tool_arguments(call["args"])
    told = ToolMessage(get_weather(**call["args"]), tool_call_id=call["id"])
    assert bound.invoke([question, answer, told]).content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_it_reads_structured_output(chat, method):
    assert isinstance(
        chat.with_structured_output(questions.City, method=method).invoke(questions.PLAIN), questions.City
    )


@pytest.mark.parametrize("kind", ["llama", "openai", "gemini"])
def test_it_embeds(router, model):
    embeddings = OpenAIEmbeddings(
        base_url=f"{router.url}/v1", api_key="none", model=model, check_embedding_ctx_length=False, max_retries=0
    )
    first, second = embeddings.embed_documents(["one", "two"])
    assert len(first) == len(second) > 0
    assert first != second
