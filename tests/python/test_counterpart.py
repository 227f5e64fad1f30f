"""The real llama-server behaves as the other tests take for granted."""

from __future__ import annotations

import httpx
import pytest
import stage
from sse import SseStream
from waiting import eventually

CHAT = {"messages": [{"role": "user", "content": "Say something."}]}


@pytest.fixture(scope="module")
def llama(module_crew, models):
    return stage.llama(module_crew, models["wide"], "wide", slots=2)


def test_the_model_writes_exactly_as_many_printable_tokens_as_asked(llama):
    answer = httpx.post(f"{llama.url}/v1/chat/completions", json={**CHAT, "max_tokens": 40}, timeout=20).json()
    text = answer["choices"][0]["message"]["content"]
    assert len(text) == 40 and text.isascii() and text.isprintable()
    assert answer["usage"]["completion_tokens"] == 40
    assert answer["choices"][0]["finish_reason"] == "length"


def test_it_defers_what_exceeds_its_slots_and_frees_a_slot_when_a_stream_is_dropped(llama):
    body = {**CHAT, "max_tokens": 3_000, "stream": True}
    url = f"{llama.url}/v1/chat/completions"
    with SseStream(url, body) as first, SseStream(url, body) as second:
        first.wait_for_text(1)
        second.wait_for_text(1)
        with SseStream(url, body) as third:
            eventually(lambda: llama.metric("requests_deferred") == 1, 5, "the third request is deferred")
            assert third.answer.status is None, "a deferred request has no response headers yet"
            first.hang_up()
            third.wait_for_text(1, within=2)
    eventually(lambda: llama.busy_slots() == 0, 2, "all slots are free again")


def test_it_comes_back_on_the_same_port_after_a_kill(llama):
    before = llama.pid
    llama.restart()
    assert llama.pid != before
    assert llama.get("/health").json() == {"status": "ok"}
