"""What clients see when a real llama-server dies under them, and when it comes back."""

from __future__ import annotations

import signal

import openai
import pytest
import settings
import stage
from settings import HEALTH_INTERVAL, SHARED_MODEL
from sse import DONE
from waiting import eventually

LONG = 3_500
# Silence of a stream, in seconds, after which the router gives it up.
IDLE = 3


@pytest.fixture
def llama(crew, models):
    return stage.llama(crew, models["wide"], "wide")


@pytest.fixture
def mock(crew):
    return stage.mock(crew, "openai")


@pytest.fixture
def router(crew, llama, mock):
    node = settings.node(
        clusters=[settings.cluster("llama", llama.url, "wide")],
        providers=[settings.provider("paid", mock.url)],
        timeouts={"idle": f"{IDLE}s"},
    )
    router = stage.router(crew, node)
    router.wait_for_health("llama", "healthy")
    return router


def expect_typed_end(stream) -> None:
    """The stream ends as a stream should: an error event of the dialect, then its end mark."""
    answer = stream.wait_for_end(within=10)
    assert answer.error is None, f"the connection broke: {answer.error!r}"
    assert answer.events[-1].data == DONE
    error = answer.events[-2].json()["error"]
    assert error["type"] and error["message"]
    assert "code" in error


def backend_of(answer) -> str | None:
    return answer.headers.get("x-llm-router-backend") if answer.status_code == 200 else None


def test_a_killed_cluster_ends_its_streams_with_an_error_and_gets_its_requests_back_after_a_restart(
    router, llama, mock
):
    with router.stream("wide", max_tokens=LONG) as raw:
        sdk = router.openai().chat.completions.create(
            model="wide", messages=[{"role": "user", "content": "Go on."}], max_tokens=LONG, stream=True
        )
        raw.wait_for_text(5)
        received = 0
        with pytest.raises(openai.APIError) as failed:
            for _ in sdk:
                received += 1
                if received == 10:
                    llama.kill()
        # Not one of its subclasses, which stand for a broken connection: the event itself was read.
        assert type(failed.value) is openai.APIError
        assert failed.value.message
        assert received >= 10
        expect_typed_end(raw)

    answer = router.chat(SHARED_MODEL)
    assert backend_of(answer) == "paid", f"{answer.status_code}: {answer.text}"
    assert mock.books()["requests"] == 1

    router.wait_for_health("llama", "unhealthy")
    eventually(lambda: "wide" not in router.served_models(), 2, "its model is no longer offered")
    assert "mock-model" in router.served_models()
    alone = router.chat("wide")
    assert alone.status_code == 503
    assert int(alone.headers["retry-after"]) >= 1

    llama.restart()
    eventually(
        lambda: backend_of(router.chat(SHARED_MODEL)) == "llama", 3 * HEALTH_INTERVAL + 0.5, "the cluster serves again"
    )
    assert "wide" in router.served_models()


def test_a_stream_that_a_stopping_cluster_leaves_unfinished_is_an_error_too(router, llama):
    """On SIGTERM this llama-server ends a stream in good form but early, or leaves it silent for 25 s."""
    with router.stream("wide", max_tokens=LONG) as stream:
        stream.wait_for_text(5)
        llama.signal(signal.SIGTERM)
        expect_typed_end(stream)
    llama.kill()
    assert backend_of(router.chat(SHARED_MODEL)) == "paid"


def test_a_cluster_that_is_gone_before_the_first_byte_costs_the_client_nothing(router, llama):
    llama.kill()
    # At once, before any probe can have noticed: the refused connection itself must lead elsewhere.
    with router.stream(SHARED_MODEL, max_tokens=8) as stream:
        answer = stream.wait_for_end()
    assert answer.status == 200
    assert answer.headers["x-llm-router-backend"] == "paid"
    assert int(answer.headers["x-llm-router-attempts"]) == 2
    assert answer.events[-1].data == DONE
    assert stream.text


def test_a_cluster_that_hangs_is_not_waited_for_without_end(router, llama):
    """SIGSTOP: the connection stands, nothing answers. Probes time out and requests go elsewhere."""
    llama.signal(signal.SIGSTOP)
    try:
        router.wait_for_health("llama", "unhealthy", within=6 * HEALTH_INTERVAL + 4)
        assert backend_of(router.chat(SHARED_MODEL)) == "paid"
    finally:
        llama.signal(signal.SIGCONT)
    router.wait_for_health("llama", "healthy", within=3 * HEALTH_INTERVAL + 0.5)
