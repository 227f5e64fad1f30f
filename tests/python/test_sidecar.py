"""The sidecar between a router and a real llama-server: signatures, figures, streams."""

from __future__ import annotations

import json

import hmac_v1
import httpx
import pytest
import settings
import stage
from process import free_port
from waiting import eventually

CHAT = "/v1/chat/completions"
BODY = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "stream": True}).encode()
COST_PER_HOUR = 0.378


@pytest.fixture(scope="module")
def llama(module_crew, models):
    return stage.llama(module_crew, models["wide"], "wide", api_key="key-of-the-server")


@pytest.fixture(scope="module")
def sidecar_url(module_crew, llama):
    port = free_port()
    beside = stage.sidecar(
        module_crew,
        {
            "listen": f"127.0.0.1:{port}",
            "upstream": llama.url,
            "upstreamApiKey": "key-of-the-server",
            "sharedSecret": "${TEST_SHARED_SECRET}",
            "costPerHour": COST_PER_HOUR,
            "provider": "aws",
            "region": "us-west-2",
            "name": "gpu",
        },
    )
    url = f"http://127.0.0.1:{port}"
    beside.wait_until(lambda: httpx.get(f"{url}/health", timeout=5).status_code == 200, 15, "answers /health")
    return url


def post(url: str, headers: dict[str, str], body: bytes = BODY) -> httpx.Response:
    return httpx.post(f"{url}{CHAT}", content=body, headers=headers, timeout=20)


def test_a_signed_request_is_forwarded_and_its_stream_comes_back(sidecar_url):
    answer = post(sidecar_url, hmac_v1.headers("POST", CHAT, BODY))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.rstrip().endswith("data: [DONE]")


# Made when the test runs: a signature made when the file is read would be too old by then.
REFUSED = {
    "unsigned": lambda: {"content-type": "application/json"},
    "wrong-secret": lambda: hmac_v1.headers("POST", CHAT, BODY, secret="another secret"),
    "another-body": lambda: hmac_v1.headers("POST", CHAT, b"{}"),
    "another-path": lambda: hmac_v1.headers("POST", "/v1/completions", BODY),
    "too-old": lambda: hmac_v1.headers("POST", CHAT, BODY, age=hmac_v1.WINDOW + 30),
    "from-the-future": lambda: hmac_v1.headers("POST", CHAT, BODY, age=-hmac_v1.WINDOW - 30),
    "no-number": lambda: {**hmac_v1.headers("POST", CHAT, BODY), "x-timestamp": "yesterday"},
    "another-scheme": lambda: {**hmac_v1.headers("POST", CHAT, BODY), "x-auth-type": "none"},
}


@pytest.mark.parametrize("make_headers", REFUSED.values(), ids=REFUSED.keys())
def test_a_request_that_is_not_signed_as_it_should_be_never_reaches_the_server(sidecar_url, llama, make_headers):
    before = llama.metric("prompt_tokens_total")
    answer = post(sidecar_url, make_headers())
    assert answer.status_code == 401
    assert answer.json()["error"]["message"]
    assert llama.metric("prompt_tokens_total") == before


def test_a_signature_counts_once(sidecar_url):
    body = BODY.replace(b"Hi", b"Once")
    headers = hmac_v1.headers("POST", CHAT, body)
    assert post(sidecar_url, headers, body).status_code == 200
    assert post(sidecar_url, headers, body).status_code == 401


def test_its_figures_are_those_of_the_server(sidecar_url):
    body = BODY.replace(b'"max_tokens": 5', b'"max_tokens": 400')
    assert post(sidecar_url, hmac_v1.headers("POST", CHAT, body), body).status_code == 200

    def stats():
        answer = httpx.get(f"{sidecar_url}/stats", headers=hmac_v1.headers("GET", "/stats", b""), timeout=5)
        assert answer.status_code == 200, answer.text
        figures = answer.json()
        return figures if figures["tokens_per_second"] else None

    figures = eventually(stats, 10, "the throughput was measured", every=0.5)
    assert set(figures) >= {"queue_depth", "tokens_per_second", "latency_p95_ms"}
    assert figures["queue_depth"] == 0
    assert 10 < figures["tokens_per_second"] < 20_000

    metrics = httpx.get(f"{sidecar_url}/metrics", headers=hmac_v1.headers("GET", "/metrics", b""), timeout=5).text
    samples = [line for line in metrics.splitlines() if line and not line.startswith("#")]
    assert any("cost" in line and 'region="us-west-2"' in line for line in samples), metrics
    assert any("tokens_per_second" in line for line in samples), metrics


def test_a_router_reaches_the_server_through_it(crew, sidecar_url, llama):
    cluster = settings.cluster(
        "gpu", sidecar_url, "wide", authType="hmac", sharedSecret="${TEST_SHARED_SECRET}", costPerHour=COST_PER_HOUR
    )
    router = stage.router(crew, settings.node(clusters=[cluster]))
    router.wait_for_health("gpu", "healthy")
    with router.stream("wide", max_tokens=100) as stream:
        assert stream.wait_for_end().status == 200
        assert len(stream.text) == 100
    # Two in the same second with the same body: equal signatures would be taken for a replay.
    answers = [router.chat("wide") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    eventually(lambda: router.own("gpu")["tokens_per_second"], 10, "the sidecar's figures arrive")

    with router.stream("wide", max_tokens=3_500) as stream:
        stream.wait_for_text(5)
        assert llama.busy_slots() == 1
    eventually(lambda: llama.busy_slots() == 0, 1.0, "a client that leaves is felt through both")


def test_a_router_with_the_wrong_secret_says_that_it_is_its_own(crew, sidecar_url):
    cluster = settings.cluster("gpu", sidecar_url, "wide", authType="hmac", sharedSecret="not the secret")
    router = stage.router(crew, settings.node(clusters=[cluster]))
    answer = router.chat("wide")
    assert answer.status_code in (401, 502)
    assert "router's own key" in answer.json()["error"]["message"]
    assert "not the secret" not in answer.text + router.output()
