"""Signatures of version 2, made by a second implementation, before a sidecar and a simulated llama-server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import hmac_v1
import hmac_v2
import httpx
import pytest
import stage
from process import free_port

CHAT = "/v1/chat/completions"
BODY = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}).encode()
MANUAL = Path(__file__).parents[2] / "docs" / "SIDECAR.md"
PREVIOUS = "the secret before"


def sidecar(crew, auth: dict[str, str]) -> str:
    upstream = stage.mock(crew, "llama")
    port = free_port()
    beside = stage.sidecar(
        crew,
        {"listen": f"127.0.0.1:{port}", "upstream": upstream.url, "costPerHour": 0.1, "name": "v2", **auth},
    )
    url = f"http://127.0.0.1:{port}"
    beside.wait_until(lambda: httpx.get(f"{url}/health", timeout=5).status_code == 200, 15, "answers /health")
    return url


@pytest.fixture(scope="module")
def url(module_crew):
    secrets = {"authType": "hmac_v2", "sharedSecret": "${TEST_SHARED_SECRET}", "previousSecret": PREVIOUS}
    return sidecar(module_crew, secrets)


def test_the_vector_of_the_manual_is_what_the_manual_describes():
    rows = dict(re.findall(r"^\| ([a-z, ]+) \| (`.*`) \|$", MANUAL.read_text(), flags=re.MULTILINE))
    plain = {name: [part.strip("`") for part in re.split(r", (?=`)", value)] for name, value in rows.items()}
    stamp = (*plain["timestamp"], *plain["nonce"], *plain["key id"])
    target = tuple(plain["method, path, query"])
    made = hmac_v2.signature(*plain["secret"], target, plain["body"][0].encode(), stamp)
    assert [made] == plain["signature"]


def test_either_secret_passes_with_a_query_and_without(url):
    for secret in ({}, {"secret": PREVIOUS}):
        for query in ("", "a=1&b=%20"):
            headers = hmac_v2.headers("POST", CHAT, BODY, query=query, **secret)
            answer = httpx.post(f"{url}{CHAT}" + (f"?{query}" if query else ""), content=BODY, headers=headers)
            assert answer.status_code == 200, answer.text


# Made when the test runs: a signature made when the file is read would be too old by then.
REFUSED = {
    "unsigned": ("unsigned", dict),
    "version-1": ("version", lambda: hmac_v1.headers("POST", CHAT, BODY)),
    "unknown-secret": ("unknown_key", lambda: hmac_v2.headers("POST", CHAT, BODY, secret="another secret")),
    "another-body": ("bad_signature", lambda: hmac_v2.headers("POST", CHAT, b"{}")),
    "another-path": ("bad_signature", lambda: hmac_v2.headers("POST", "/v1/completions", BODY)),
    "another-query": ("bad_signature", lambda: hmac_v2.headers("POST", CHAT, BODY, query="a=1")),
    "another-method": ("bad_signature", lambda: hmac_v2.headers("PUT", CHAT, BODY)),
    "too-old": ("stale", lambda: hmac_v2.headers("POST", CHAT, BODY, age=hmac_v2.WINDOW + 30)),
    "from-the-future": ("stale", lambda: hmac_v2.headers("POST", CHAT, BODY, age=-hmac_v2.WINDOW - 30)),
    "short-nonce": ("malformed", lambda: hmac_v2.headers("POST", CHAT, BODY, nonce="abc")),
}


@pytest.mark.parametrize(("code", "make_headers"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_signed_as_it_should_be_is_refused_by_name(url, code, make_headers):
    answer = httpx.post(f"{url}{CHAT}", content=BODY, headers=make_headers())
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, code), answer.text


def test_a_nonce_counts_once_for_every_method_and_body(url):
    nonce = "one-nonce-for-all-of-them"
    first = hmac_v2.headers("GET", "/stats", b"", nonce=nonce)
    assert httpx.get(f"{url}/stats", headers=first).status_code == 200
    again = httpx.get(f"{url}/stats", headers=first)
    other = httpx.post(f"{url}{CHAT}", content=BODY, headers=hmac_v2.headers("POST", CHAT, BODY, nonce=nonce))
    assert [answer.json()["error"]["code"] for answer in (again, other)] == ["replayed", "replayed"]


def test_a_sidecar_that_takes_both_takes_both(crew):
    url = sidecar(crew, {"authType": "hmac", "sharedSecret": "${TEST_SHARED_SECRET}"})
    for headers in (hmac_v1.headers("POST", CHAT, BODY), hmac_v2.headers("POST", CHAT, BODY)):
        assert httpx.post(f"{url}{CHAT}", content=BODY, headers=headers).status_code == 200
