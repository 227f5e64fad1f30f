"""A backend goes wrong in every way the mock knows; the client gets its answer, or a proper error."""

from __future__ import annotations

import time

import openai
import pytest
import settings
import stage
from settings import SHARED_MODEL
from sse import DONE

FIRST_BYTE = 1.5
IDLE = 1.5
# Nothing of the answer has reached the client yet when these happen.
BEFORE_THE_FIRST_BYTE = {
    "status-500": {"status": {"code": 500}},
    "status-503": {"status": {"code": 503, "retryAfter": "1s"}},
    "too-many-requests": {"status": {"code": 429, "retryAfter": "5s"}},
    "refused-key": {"status": {"code": 401}},
    "silence": "hang",
    "hung-up": "disconnect",
    "no-json": "malformed",
    "error-in-a-200": "errorBody200",
    "cut-before-any-token": {"cut": {"afterTokens": 0}},
    "ended-before-any-token": {"cleanEnd": {"afterTokens": 0}},
}
AFTER_THE_FIRST_BYTE = {
    "cut": {"cut": {"afterTokens": 3}},
    "clean-but-early-end": {"cleanEnd": {"afterTokens": 3}},
    "silence": {"stall": {"afterTokens": 3}},
}
MESSAGES = [{"role": "user", "content": "Say something."}]


@pytest.fixture
def first(crew):
    return stage.mock(crew, "llama", model="own-model")


@pytest.fixture
def second(crew):
    return stage.mock(crew, "openai", model="paid-model")


@pytest.fixture
def router(crew, first, second):
    node = settings.node(
        clusters=[settings.cluster("first", first.url, "own-model")],
        providers=[settings.provider("second", second.url, "paid-model")],
        timeouts={"firstByte": f"{FIRST_BYTE}s", "idle": f"{IDLE}s"},
    )
    router = stage.router(crew, node)
    router.wait_for_health("first", "healthy")
    return router


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", BEFORE_THE_FIRST_BYTE.values(), ids=BEFORE_THE_FIRST_BYTE.keys())
def test_a_fault_before_the_first_byte_is_not_seen_by_the_client(router, first, second, fault, streamed):
    first.set_faults([{"action": fault}])
    started = time.monotonic()
    if streamed:
        with router.stream(SHARED_MODEL, max_tokens=8) as stream:
            answer = stream.wait_for_end()
        assert answer.status == 200
        assert answer.events[-1].data == DONE
        assert all("error" not in event.json() for event in answer.events[:-1])
        assert stream.text
        headers = answer.headers
    else:
        whole = router.chat(SHARED_MODEL, max_tokens=8)
        assert whole.status_code == 200, whole.text
        assert whole.json()["choices"][0]["message"]["content"]
        headers = whole.headers
    assert headers["x-llm-router-backend"] == "second"
    assert headers["x-llm-router-attempts"] == "2"
    assert time.monotonic() - started < FIRST_BYTE + 3
    assert first.books()["received"] == 1, "the same backend is not tried twice while another is eligible"
    assert second.books()["requests"] == 1


@pytest.mark.parametrize("fault", AFTER_THE_FIRST_BYTE.values(), ids=AFTER_THE_FIRST_BYTE.keys())
def test_a_fault_after_the_first_byte_is_a_typed_error_and_no_second_answer(router, first, second, fault):
    first.set_faults([{"action": fault}])
    with router.stream(SHARED_MODEL, max_tokens=20) as stream:
        answer = stream.wait_for_end(within=IDLE + 5)
    assert answer.error is None
    assert answer.events[-1].data == DONE
    error = answer.events[-2].json()["error"]
    assert error["type"] and error["message"]
    assert any((event.json()["choices"][0]["delta"].get("content") or "") for event in answer.events[:-2])
    assert second.books()["received"] == 0, "a stream that has begun is not begun again elsewhere"


def test_half_of_a_whole_answer_is_never_told_as_the_answer(router, first):
    first.set_faults([{"action": {"cut": {"afterTokens": 3}}}])
    answer = router.chat(SHARED_MODEL, max_tokens=8)
    if answer.status_code == 200:
        assert answer.headers["x-llm-router-backend"] == "second"
    else:
        assert answer.status_code == 502
        assert answer.json()["error"]["message"]


def test_the_clients_own_mistake_is_told_and_not_tried_elsewhere(router, first, second):
    first.set_faults([{"action": {"status": {"code": 400}}}])
    with pytest.raises(openai.BadRequestError) as refused:
        router.openai().chat.completions.create(model=SHARED_MODEL, messages=MESSAGES)
    assert refused.value.type == "invalid_request_error"
    assert second.books()["received"] == 0
    assert router.own("first")["health"] == "healthy"


def test_a_backend_that_keeps_failing_is_left_alone(router, first, second):
    first.set_faults([{"action": {"status": {"code": 500}}}])
    for _ in range(12):
        assert router.chat(SHARED_MODEL).status_code == 200
    assert first.books()["received"] <= 6, "five failures in a row open the breaker"
    assert second.books()["requests"] == 12


def test_when_every_backend_fails_the_error_has_the_dialects_shape(router, first, second):
    for upstream in (first, second):
        upstream.set_faults([{"action": {"status": {"code": 500}}}])
    with pytest.raises(openai.InternalServerError) as failed:
        router.openai().chat.completions.create(model=SHARED_MODEL, messages=MESSAGES)
    assert failed.value.status_code in (502, 503)
    assert failed.value.body["message"] and failed.value.body["type"]
    answer = router.chat(SHARED_MODEL)
    assert answer.status_code in (502, 503)
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) >= 1


def test_a_limit_of_the_only_provider_is_passed_on_with_its_wait(router, second):
    second.set_faults([{"action": {"status": {"code": 429, "retryAfter": "7s"}}}])
    with pytest.raises(openai.RateLimitError) as limited:
        router.openai().chat.completions.create(model="paid-model", messages=MESSAGES)
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 7
    # While the wait lasts the provider is not asked again.
    received = second.books()["received"]
    again = router.chat("paid-model")
    assert again.status_code in (429, 503)
    assert int(again.headers["retry-after"]) >= 1
    assert second.books()["received"] == received
