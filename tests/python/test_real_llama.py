"""A node in front of a real llama-server, asked through the official OpenAI client."""

from __future__ import annotations

import json
import time

import openai
import pytest
import settings
import stage
from settings import HEALTH_INTERVAL
from sse import DONE, SseStream
from waiting import eventually

SLOTS = 2
EMBEDDING_LENGTH = 512
MESSAGES = [{"role": "user", "content": "Say something."}]


@pytest.fixture(scope="module")
def llama(module_crew, models):
    return stage.llama(module_crew, models["wide"], "wide", slots=SLOTS)


@pytest.fixture(scope="module")
def mock(module_crew):
    return stage.mock(module_crew, "openai")


@pytest.fixture(scope="module")
def router(module_crew, llama, mock):
    cluster = settings.cluster(
        "llama", llama.url, "wide", capabilities=["chat", "completion", "embedding", "tools", "json"]
    )
    node = settings.node(clusters=[cluster], providers=[settings.provider("paid", mock.url)], calibrateThroughput=True)
    router = stage.router(module_crew, node)
    router.wait_for_health("llama", "healthy")
    return router


@pytest.fixture(autouse=True)
def idle(llama, router):
    """Each test starts with free slots."""
    eventually(lambda: llama.busy_slots() == 0, 5, "all slots are free")
    eventually(lambda: router.own("llama")["in_flight"] == 0, 5, "nothing is in flight")


def test_the_throughput_of_a_cluster_is_measured_before_any_client_asks_and_gives_its_cost(router):
    labels = {"cluster": "llama", "provider": "aws", "region": "us-west-2"}

    def cost_follows_throughput() -> bool:
        # A later look at the server may correct the throughput; the cost then follows it.
        tokens_per_second = router.own("llama")["tokens_per_second"]
        assert 5 < tokens_per_second < 5_000
        per_1k = router.metric("llm_router_cluster_cost_per_1k_tokens", **labels)
        return per_1k == pytest.approx(0.0928 / (tokens_per_second * 3_600) * 1.1 * 1_000, rel=0.01)

    eventually(cost_follows_throughput, 4 * HEALTH_INTERVAL, "its cost is that of the measured throughput", every=0.2)


def test_a_chat_turn_is_answered_by_the_cluster_and_says_how_it_was_routed(router):
    raw = router.openai().chat.completions.with_raw_response.create(model="wide", messages=MESSAGES, max_tokens=24)
    completion = raw.parse()
    assert len(completion.choices[0].message.content) == 24
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].finish_reason == "length"
    assert completion.object == "chat.completion"
    assert completion.usage.completion_tokens == 24
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 24

    assert raw.headers["x-llm-router-backend"] == "llama"
    assert raw.headers["x-llm-router-reason"] == "cluster_first"
    assert raw.headers["x-llm-router-attempts"] == "1"
    assert raw.headers["x-llm-router-region"] == "us-west-2"
    assert raw.headers["x-llm-router-decision"]
    assert float(raw.headers["x-llm-router-cost-usd"]) >= 0


def test_the_alias_of_a_model_reaches_the_same_cluster(router):
    answer = router.chat(settings.SHARED_MODEL)
    assert (answer.status_code, answer.headers["x-llm-router-backend"]) == (200, "llama")


def test_a_stream_arrives_piece_by_piece_while_it_is_written(router):
    started = time.monotonic()
    arrivals, text, finish = [], "", None
    stream = router.openai().chat.completions.create(model="wide", messages=MESSAGES, max_tokens=300, stream=True)
    for chunk in stream:
        choice = chunk.choices[0]
        if choice.delta.content:
            arrivals.append(time.monotonic() - started)
            text += choice.delta.content
        finish = choice.finish_reason or finish
    assert len(text) == 300
    assert finish == "length"
    assert len(arrivals) > 30, "events are passed on one by one, not in a few blocks"
    assert arrivals[0] < arrivals[-1] / 2, f"the first text came after {arrivals[0]:.2f} s of {arrivals[-1]:.2f} s"


def test_the_usage_chunk_is_sent_to_those_who_ask_for_it_and_only_to_them(router):
    asked = router.openai().chat.completions.create(
        model="wide", messages=MESSAGES, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(asked)
    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[-1].choices == []

    with router.stream("wide", max_tokens=12) as plain:
        answer = plain.wait_for_end()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.events[-1].data == DONE
    chunks = [event.json() for event in answer.events[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all(not chunk.get("usage") and chunk["choices"] for chunk in chunks)


def test_a_legacy_completion_is_answered(router):
    completion = router.openai().completions.create(model="wide", prompt="Once upon a time", max_tokens=10)
    assert len(completion.choices[0].text) == 10
    assert completion.usage.completion_tokens == 10


def test_embeddings_come_in_both_encodings(router):
    client = router.openai()
    # Without an encoding the client asks for base64 and decodes it itself.
    packed = client.embeddings.create(model="wide", input=["one", "two"])
    plain = client.embeddings.create(model="wide", input=["one", "two"], encoding_format="float")
    assert [len(row.embedding) for row in packed.data] == [EMBEDDING_LENGTH] * 2
    assert plain.data[0].embedding == pytest.approx(packed.data[0].embedding, abs=1e-5)
    assert plain.data[0].embedding != pytest.approx(plain.data[1].embedding, abs=1e-3)
    assert packed.usage.prompt_tokens > 0


def test_the_models_of_healthy_backends_are_listed(router):
    assert {"wide", "mock-model"} <= {model.id for model in router.openai().models.list()}


def test_waiting_requests_stay_in_the_router_and_their_number_is_seen(router, llama):
    streams = [router.stream("wide", max_tokens=2_500) for _ in range(SLOTS + 2)]
    try:
        own = eventually(
            lambda: (own := router.own("llama"))["queue_depth"] == 2 and own, 2 * HEALTH_INTERVAL, "two requests wait"
        )
        assert (own["in_flight"], own["slots"]) == (SLOTS, SLOTS)
        assert router.metric("llm_router_backend_queue_depth", backend="llama") == 2
        assert llama.metric("requests_deferred") == 0, "no more is sent than the cluster has slots for"
        # A stream's head comes with its first token, which a busy machine may take a while to write.
        eventually(
            lambda: sum(stream.answer.status == 200 for stream in streams) == SLOTS, 5, "the others are answered"
        )

        for stream in streams:
            if stream.answer.status == 200:
                stream.hang_up()
        waiting = [stream for stream in streams if not stream.ended]
        assert len(waiting) == 2
        for stream in waiting:
            stream.wait_for_text(1, within=5)
    finally:
        for stream in streams:
            stream.hang_up()
    eventually(lambda: router.own("llama")["queue_depth"] == 0, 2 * HEALTH_INTERVAL, "nobody waits any more")


def test_a_client_that_leaves_its_stream_frees_the_slot_within_a_second(router, llama):
    with router.stream("wide", max_tokens=3_500) as stream:
        stream.wait_for_text(5)
        assert llama.busy_slots() == 1
    eventually(lambda: llama.busy_slots() == 0, 1.0, "the slot is free")


def test_a_client_that_leaves_while_waiting_for_a_whole_answer_frees_the_slot_within_a_second(router, llama):
    body = {"model": "wide", "messages": MESSAGES, "max_tokens": 3_500}
    with SseStream(f"{router.url}/v1/chat/completions", body) as request:
        eventually(lambda: llama.busy_slots() == 1, 5, "the cluster works on it")
        assert not request.ended
    eventually(lambda: llama.busy_slots() == 0, 1.0, "the slot is free")


def test_an_unknown_model_is_refused_by_name(router):
    with pytest.raises(openai.NotFoundError) as refused:
        router.openai().chat.completions.create(model="no-such-model", messages=MESSAGES)
    assert refused.value.code == "model_not_found"
    assert "no-such-model" in refused.value.message


def test_a_request_that_is_wrong_is_refused_without_asking_any_backend(router, mock):
    received = mock.books()["received"]
    with pytest.raises(openai.BadRequestError) as refused:
        router.openai().chat.completions.create(model=settings.SHARED_MODEL, messages="no list")
    assert refused.value.type == "invalid_request_error"
    broken = router.post("/v1/chat/completions", None)
    assert broken.status_code == 400
    assert set(broken.json()["error"]) >= {"type", "message", "param", "code"}
    assert mock.books()["received"] == received


def test_a_prompt_too_long_for_the_model_is_the_clients_fault_and_not_the_clusters(router):
    with pytest.raises(openai.BadRequestError):
        router.openai().chat.completions.create(
            model="wide", messages=[{"role": "user", "content": "word " * 4_000}], max_tokens=5
        )
    assert router.own("llama")["health"] == "healthy"
    assert router.chat("wide").status_code == 200


ANSWER = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}


def test_an_answer_fits_the_schema_that_was_asked_for(router):
    completion = router.openai().chat.completions.create(
        model="wide",
        messages=MESSAGES,
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": ANSWER}},
    )
    answer = json.loads(completion.choices[0].message.content)
    assert answer["answer"] in ("yes", "no")
    assert isinstance(answer["sure"], bool)
    assert completion.choices[0].finish_reason == "stop"
