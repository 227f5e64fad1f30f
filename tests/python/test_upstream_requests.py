"""What leaves the router towards a backend, and what never does."""

from __future__ import annotations

import json
import time

import hmac_v1
import pytest
import settings
import stage
from recorder import Recorder
from settings import PROVIDER_KEY

# What a client may send along, on purpose or not. None of it is a backend's business.
CLIENT_HEADERS = {
    "authorization": "Bearer secret-of-the-client",
    "cookie": "session=secret-of-the-client",
    "x-api-key": "secret-of-the-client",
    "x-goog-api-key": "secret-of-the-client",
    "x-signature": "secret-of-the-client",
    "x-forwarded-for": "203.0.113.7",
    "x-llm-router-strategy": "cluster_first",
    "x-anything": "secret-of-the-client",
}


@pytest.fixture(scope="module")
def recorders():
    both = {"cluster": Recorder(), "provider": Recorder()}
    yield both
    for recorder in both.values():
        recorder.close()


@pytest.fixture(scope="module")
def router(module_crew, recorders):
    cluster = settings.cluster(
        "signed", recorders["cluster"].url, "recorded", authType="hmac", sharedSecret="${TEST_SHARED_SECRET}"
    )
    paid = settings.provider("paid", f"{recorders['provider'].url}/v1", "paid-model")
    router = stage.router(module_crew, settings.node(clusters=[cluster], providers=[paid]))
    router.wait_for_health("signed", "healthy")
    return router


def last_post(recorder: Recorder):
    return recorder.posts()[-1]


@pytest.mark.parametrize(("model", "place"), [("recorded", "cluster"), ("paid-model", "provider")])
@pytest.mark.parametrize("streamed", [False, True])
def test_nothing_of_the_clients_headers_reaches_a_backend(router, recorders, model, place, streamed):
    if streamed:
        with router.stream(model, headers=CLIENT_HEADERS) as stream:
            assert stream.wait_for_end().status == 200
            assert stream.text == "noted"
    else:
        assert router.chat(model, headers=CLIENT_HEADERS).status_code == 200
    sent = last_post(recorders[place])
    assert "secret-of-the-client" not in json.dumps(sent.headers)
    assert not sent.headers.keys() & {"cookie", "x-forwarded-for", "x-anything", "x-llm-router-strategy"}


def test_a_provider_gets_its_own_key_and_the_path_once(router, recorders):
    router.chat("paid-model")
    sent = last_post(recorders["provider"])
    assert sent.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert sent.path == "/v1/chat/completions"
    assert json.loads(sent.body)["model"] == "paid-model"


def test_a_request_to_a_cluster_carries_a_signature_that_another_implementation_accepts(router, recorders):
    router.chat("recorded")
    sent = last_post(recorders["cluster"])
    timestamp = sent.headers["x-timestamp"]
    assert timestamp.isdigit()
    assert abs(int(timestamp) - time.time()) < 30
    assert sent.headers["x-auth-type"] == "hmac-sha256"
    assert sent.headers["x-signature"] == hmac_v1.signature(timestamp, "POST", sent.path, sent.body)


def test_the_name_of_the_backends_own_model_replaces_the_alias_and_unknown_fields_survive(router, recorders):
    answer = router.chat(
        settings.SHARED_MODEL, headers={"x-llm-router-backend": "paid"}, metadata={"kept": ["as", 1.50]}
    )
    assert answer.status_code == 200
    body = json.loads(last_post(recorders["provider"]).body)
    assert body["model"] == "paid-model"
    assert body["metadata"] == {"kept": ["as", 1.50]}


def test_a_cluster_is_always_asked_for_a_stream_and_the_client_gets_a_whole_answer(router, recorders):
    answer = router.chat("recorded")
    assert json.loads(last_post(recorders["cluster"]).body)["stream"] is True
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["choices"][0]["message"]["content"] == "noted"
    assert answer.json()["usage"]["completion_tokens"] == 1
