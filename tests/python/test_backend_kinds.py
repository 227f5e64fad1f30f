"""One OpenAI client, four kinds of backend; what the client is told was used is what the backend counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import settings
import stage
from settings import PROVIDER_KEY
from sse import DONE
from waiting import eventually

PROVIDER_TYPES = {"openai": "openai", "anthropic": "claude", "gemini": "gemini"}
KINDS = ["llama", *PROVIDER_TYPES]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a router?"}]


@pytest.fixture(scope="module")
def mocks(module_crew):
    return {kind: stage.mock(module_crew, kind, model=f"{kind}-model", slots=32) for kind in KINDS}


@pytest.fixture(scope="module")
def router(module_crew, mocks):
    providers = [
        settings.provider(kind, mocks[kind].url, f"{kind}-model", word) for kind, word in PROVIDER_TYPES.items()
    ]
    clusters = [settings.cluster("llama", mocks["llama"].url, "llama-model")]
    router = stage.router(module_crew, settings.node(clusters=clusters, providers=providers))
    router.wait_for_health("llama", "healthy")
    return router


def counted(mock, before: dict) -> tuple[int, int, int]:
    after = mock.books()
    return tuple(after[name] - before[name] for name in ("requests", "input_tokens", "output_tokens"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_answer_states_the_usage_that_the_backend_counted(router, mocks, kind):
    before = mocks[kind].books()
    completion = router.openai().chat.completions.create(model=f"{kind}-model", messages=MESSAGES, max_tokens=20)
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason in ("stop", "length")
    usage = completion.usage
    assert counted(mocks[kind], before) == (1, usage.prompt_tokens, usage.completion_tokens)
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_says_the_same_and_states_the_usage_at_its_end(router, mocks, kind):
    client = router.openai()
    whole = client.chat.completions.create(model=f"{kind}-model", messages=MESSAGES, max_tokens=20)
    before = mocks[kind].books()
    chunks = list(
        client.chat.completions.create(
            model=f"{kind}-model",
            messages=MESSAGES,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert finishes == [whole.choices[0].finish_reason]
    usage = chunks[-1].usage
    assert counted(mocks[kind], before) == (1, usage.prompt_tokens, usage.completion_tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_breaks_ends_with_a_typed_error(router, mocks, kind):
    mocks[kind].set_faults([{"times": 1, "action": {"cut": {"afterTokens": 4}}}])
    with router.stream(f"{kind}-model", max_tokens=20) as stream:
        answer = stream.wait_for_end()
    assert answer.error is None
    assert answer.events[-1].data == DONE
    assert answer.events[-2].json()["error"]["message"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_leaves_is_felt_by_the_backend_within_a_second(router, mocks, kind):
    cancelled = mocks[kind].books()["cancelled"]
    mocks[kind].set_faults([{"times": 1, "action": {"slow": {"tokensPerSecond": 10}}}])
    with router.stream(f"{kind}-model", max_tokens=500, messages=MESSAGES) as stream:
        stream.wait_for_text(1)
    eventually(lambda: mocks[kind].books()["cancelled"] == cancelled + 1, 1.0, "the backend saw the client leave")


@pytest.mark.parametrize("kind", PROVIDER_TYPES)
def test_a_provider_that_refuses_the_routers_key_is_not_mistaken_for_the_clients(router, mocks, kind):
    mocks[kind].set_faults([{"times": 1, "action": {"status": {"code": 401}}}])
    with pytest.raises(openai.APIStatusError) as failed:
        router.openai().chat.completions.create(model=f"{kind}-model", messages=MESSAGES)
    assert failed.value.status_code in (401, 502)
    assert "router's own key" in failed.value.message
    assert PROVIDER_KEY not in failed.value.message


def test_twenty_clients_at_once_each_get_their_own_answer(router):
    client = router.openai()

    def ask(number: int) -> tuple[str, str]:
        kind = KINDS[number % len(KINDS)]
        messages = [{"role": "user", "content": f"Question number {number}"}]
        one = client.chat.completions.create(model=f"{kind}-model", messages=messages, max_tokens=20)
        two = client.chat.completions.create(model=f"{kind}-model", messages=messages, max_tokens=20, stream=True)
        return one.choices[0].message.content, "".join(c.choices[0].delta.content or "" for c in two if c.choices)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))
    assert all(whole == streamed for whole, streamed in answers)
