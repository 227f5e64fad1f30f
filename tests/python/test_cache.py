"""Answers given again by a running router: one generation in the mock's own books, whatever repeats."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
import settings
import stage

MANY = 60
MODEL = "paid-model"
ASKING = {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": "What is a router?"}]}


@pytest.fixture
def upstream(crew):
    # Slow enough that requests meet while the first one runs.
    return stage.mock(crew, "openai", model=MODEL, tokens_per_second=60)


@pytest.fixture
def router(crew, upstream):
    node = settings.node(providers=[settings.provider("paid", upstream.url, MODEL)])
    return stage.router(crew, {**node, "cache": {"ttl": "1m"}, "idempotency": {"ttl": "1m"}})


def post(router, body, **headers):
    """One request on a connection of its own."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{router.url}/v1/chat/completions", json=body, headers=names, timeout=60)


def all_at_once(work):
    """The results of `work` done many times at once."""
    with ThreadPoolExecutor(MANY) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(MANY)]]


@pytest.mark.parametrize("stream", [False, True])
def test_many_equal_requests_are_one_generation(router, upstream, stream):
    answers = all_at_once(lambda: post(router, {**ASKING, "stream": stream}))
    later = post(router, {**ASKING, "stream": stream, "user": "someone"})
    assert upstream.books()["received"] == 1
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in [*answers, later]}) == 1
    words = [answer.headers["x-llm-router-cache"] for answer in answers]
    assert sorted(words) == ["hit"] * (MANY - 1) + ["miss"]
    assert later.headers["x-llm-router-cache"] == "hit"
    assert later.headers["x-llm-router-cost-usd"] == "0"


@pytest.mark.parametrize("stream", [False, True])
def test_many_repeats_under_one_key_are_one_generation(router, upstream, stream):
    body = {**ASKING, "temperature": 1, "stream": stream}
    answers = all_at_once(lambda: post(router, body, idempotency_key="order-1"))
    later = post(router, body, idempotency_key="order-1")
    assert upstream.books()["received"] == 1
    assert len({answer.text for answer in [*answers, later]}) == 1
    assert later.headers["idempotent-replayed"] == "true"
    other = post(router, {**body, "max_tokens": 3}, idempotency_key="order-1")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


def test_the_official_client_reads_a_stream_that_is_given_again(router, upstream):
    client = router.openai()
    texts = []
    for _ in range(2):
        chunks = client.chat.completions.create(**ASKING, stream=True, stream_options={"include_usage": True})
        seen = list(chunks)
        texts.append("".join(choice.delta.content or "" for chunk in seen for choice in chunk.choices))
        assert seen[-1].usage.completion_tokens > 0
    assert texts[0] == texts[1] != ""
    with pytest.raises(openai.ConflictError):
        for content in ["one", "two"]:
            messages = [{"role": "user", "content": content}]
            client.chat.completions.create(model=MODEL, messages=messages, extra_headers={"Idempotency-Key": "k"})
    assert upstream.books()["received"] == 2
