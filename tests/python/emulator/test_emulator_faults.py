"""The emulator breaks its answers; the client gets a whole one or a typed error, and the verdict is clean.

The verdict takes requests with the same body for attempts at one call. A second account at the same
provider is asked with the same body, so falling back to it is a retry in the emulator's eyes.
"""

from __future__ import annotations

import time

import accounts
import httpx
import pytest
from dialects import DIALECTS
from provider_emulator import ANY_MODEL
from waiting import eventually

PATIENCE = accounts.PATIENCE
TEXT = "Half of this answer is not this answer, however well it reads."
# Events of a stream before its first content, and some way into it.
PRELUDE = {"openai": 1, "anthropic": 3, "gemini": 0}
SOME = 4
# Longer than anybody waits: a stall that ends was sat through.
STALL = 30
RETRY_AFTER = 2
# Error types that mean "the backend failed", by dialect.
BACKEND_FAILED = {
    "openai": {"server_error", "api_error", "upstream_error", "timeout", "timeout_error"},
    "anthropic": {"api_error", "timeout_error", "overloaded_error"},
    "gemini": {"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED"},
}


@pytest.fixture(autouse=True)
def scripted(emulator):
    """Every answer has the same text."""
    emulator.script(ANY_MODEL, {"type": "reply", "text": TEXT, "times": None})


def break_streams(emulator, kind: str, case: str, fault: str, after: int) -> None:
    """Breaks the next stream of each client dialect's model."""
    for dialect in DIALECTS:
        behavior = {"type": "stream_fault", "kind": fault, "after_chunks": after, "stall_seconds": STALL}
        emulator.script(accounts.model(kind, case, dialect), {**behavior, "match": {"stream": True}})


def explain_malformed(verdict, fault: str) -> None:
    """The one thing that the emulator cannot see of a stream that is so short."""
    if fault == "malformed":
        verdict.explain("malformed_chunk_ignored", "all of the stream was sent before the router could hang up on it")


def stream_in_all_dialects(router, kind: str, case: str) -> dict:
    """One stream per dialect, all at once: silence is waited for once."""
    streams = {}
    for name, dialect in DIALECTS.items():
        turns = [dialect.question(f"Asked in the dialect of {name}.")]
        streams[name] = dialect.stream(router, accounts.model(kind, case, name), turns)
    answers = {}
    for name, stream in streams.items():
        with stream:
            raw = stream.wait_for_end(within=3 * PATIENCE + 5)
        assert raw.error is None, f"{name}: the connection broke: {raw.error!r}"
        answers[name] = raw
    return answers


def expect_whole(name: str, raw) -> None:
    answer = DIALECTS[name].read_stream(raw.events)
    assert raw.status == 200, raw.body
    assert (answer.text, answer.finish, answer.error) == (TEXT, DIALECTS[name].finished, None), name
    assert answer.ended, name


@pytest.mark.parametrize("fault", accounts.STREAM_FAULTS)
def test_a_stream_that_breaks_before_its_first_content_is_answered_by_the_other_account(
    router, emulator, verdict, kind, fault
):
    explain_malformed(verdict, fault)
    case = f"early-{fault}"
    break_streams(emulator, kind, case, fault, PRELUDE[kind])
    for name, raw in stream_in_all_dialects(router, kind, case).items():
        expect_whole(name, raw)
        assert raw.headers["x-llm-router-attempts"] == "2"
        first, second = emulator.requests(accounts.model(kind, case, name))
        assert first["fault"].startswith(f"stream:{fault}") and second["fault"] is None
        assert first["fingerprint"] == second["fingerprint"]


@pytest.mark.parametrize("fault", accounts.STREAM_FAULTS)
def test_a_stream_that_breaks_in_its_midst_is_told_as_broken_so_that_the_client_asks_again(
    router, emulator, verdict, kind, fault
):
    explain_malformed(verdict, fault)
    case = f"late-{fault}"
    break_streams(emulator, kind, case, fault, PRELUDE[kind] + SOME)
    started = time.monotonic()
    for name, raw in stream_in_all_dialects(router, kind, case).items():
        dialect = DIALECTS[name]
        answer = dialect.read_stream(raw.events)
        assert TEXT.startswith(answer.text) and 0 < len(answer.text) < len(TEXT), f"{name}: {answer.text}"
        assert answer.finish is None, f"{name}: half an answer is finished with {answer.finish}"
        assert answer.error is not None, f"{name}: {raw.events[-2:]}"
        assert answer.ended, f"{name}: {raw.events[-2:]}"
        assert answer.error["message"]
        assert dialect.error_kind(answer.error) in BACKEND_FAILED[name], answer.error
        assert len(emulator.requests(accounts.model(kind, case, name))) == 1
    assert time.monotonic() - started < 2 * PATIENCE + 5, "nobody sits through a stall"
    # The verdict knows no error events: it is clean only if the client, having been told, asks again.
    for name, raw in stream_in_all_dialects(router, kind, case).items():
        expect_whole(name, raw)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("status", accounts.STATUSES)
def test_a_failing_account_is_not_seen_by_the_client(router, emulator, kind, dialect, status, streamed):
    model = accounts.model(kind, f"status-{status}", dialect.name)
    emulator.script(ANY_MODEL, {"type": "fail", "status": int(status)})
    turns = [dialect.question("Is anybody there?")]
    if streamed:
        with dialect.stream(router, model, turns) as stream:
            raw = stream.wait_for_end()
        expect_whole(dialect.name, raw)
        attempts = raw.headers["x-llm-router-attempts"]
    else:
        whole = dialect.ask(router, model, turns)
        assert whole.status_code == 200, whole.text
        assert dialect.read(whole.json()).text == TEXT
        attempts = whole.headers["x-llm-router-attempts"]
    assert attempts == "2"
    assert [request["status"] for request in emulator.requests()] == [int(status), 200]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_no_account_is_asked_before_its_retry_after_is_over(router, emulator, streamed):
    def ask(kind: str, dialect) -> httpx.Response:
        model = accounts.model(kind, "limited", dialect.name)
        body = dialect.body(model, [dialect.question("Again?")], stream=streamed, tools=False)
        return router.post(dialect.path(model, stream=streamed), body)

    pairs = [(kind, dialect) for kind in accounts.KINDS for dialect in DIALECTS.values()]
    emulator.script("*.limited.*", {"type": "fail", "status": 429, "retry_after": RETRY_AFTER, "times": len(pairs)})
    for kind, dialect in pairs:
        limited = ask(kind, dialect)
        assert limited.status_code == 429, f"{kind}, {dialect.name}: {limited.text}"
        assert 1 <= int(limited.headers["retry-after"]) <= RETRY_AFTER
        assert limited.json()["error"]["message"]
        # An impatient client is answered from here.
        again = ask(kind, dialect)
        assert again.status_code in (429, 503) and int(again.headers["retry-after"]) >= 1
        assert len(emulator.requests(accounts.model(kind, "limited", dialect.name))) == 1
    for kind, dialect in pairs:
        eventually(lambda: ask(kind, dialect).status_code == 200, RETRY_AFTER + 5, f"{kind} answers again")  # noqa: B023


def test_a_limited_provider_is_stood_in_for_by_one_of_another_kind(router, emulator, verdict, dialect):
    verdict.explain("gave_up", "the same question, in another dialect and body, was answered by another provider")
    emulator.script(ANY_MODEL, {"type": "fail", "status": 429, "retry_after": 30})
    whole = dialect.ask(router, accounts.shared(dialect.name), [dialect.question("Who is free?")])
    assert whole.status_code == 200, whole.text
    assert dialect.read(whole.json()).text == TEXT
    limited, served = emulator.requests()
    assert (limited["status"], served["status"]) == (429, 200)
    assert limited["provider"] != served["provider"]


@pytest.mark.parametrize("status", [400, 422])
def test_the_clients_own_mistake_is_told_and_not_tried_again(router, emulator, kind, dialect, status):
    emulator.script(ANY_MODEL, {"type": "fail", "status": status, "message": "`temperature` is too hot"})
    told = dialect.ask(router, accounts.model(kind, "refused", dialect.name), [dialect.question("Hot?")])
    assert told.status_code == status
    assert "`temperature` is too hot" in told.json()["error"]["message"]
    assert len(emulator.requests()) == 1


def test_a_refused_key_of_the_router_is_no_reason_to_fail_the_client(router, emulator, verdict, kind, dialect):
    verdict.explain("retried_non_retryable", "the other account has another key, which no body shows")
    emulator.script(ANY_MODEL, {"type": "fail", "status": 401})
    whole = dialect.ask(router, accounts.model(kind, "refused", dialect.name), [dialect.question("Whose key?")])
    assert whole.status_code == 200, whole.text
    assert len(emulator.requests()) == 2


def test_a_slow_first_token_is_waited_for(router, emulator, kind):
    emulator.script("*.slow.*", {"type": "slow_first_token", "seconds": PATIENCE / 3, "times": len(DIALECTS)})
    for name, raw in stream_in_all_dialects(router, kind, "slow").items():
        expect_whole(name, raw)
        assert raw.headers["x-llm-router-attempts"] == "1"


def test_an_outage_is_no_storm_however_often_the_client_asks(router, emulator, verdict, kind):
    verdict.explain("no_backoff", "the client of this test asks again at once; a router does not make it wait")
    dialect = DIALECTS["openai"]
    model = accounts.model(kind, "alone", dialect.name)
    emulator.script(ANY_MODEL, {"type": "fail", "status": 500, "times": None})
    for _ in range(15):
        failed = dialect.ask(router, model, [dialect.question("Still down?")])
        assert failed.status_code in (502, 503)
        assert failed.json()["error"]["message"]
    # Five failures in a row open the breaker; some pass until the node's view says so.
    assert 5 <= len(emulator.requests()) <= 10


def test_the_emulator_finds_a_client_that_trusts_half_an_answer(emulator, verdict):
    verdict.explain("truncated_stream_accepted", "asked for: it shows that a clean verdict means something")
    emulator.script("direct", {"type": "stream_fault", "kind": "truncate", "after_chunks": 3})
    body = {"model": "direct", "messages": [{"role": "user", "content": "Hi."}], "stream": True}
    assert "[DONE]" not in httpx.post(f"{emulator.base('openai')}/chat/completions", json=body, timeout=10).text
    assert emulator.findings() == ["truncated_stream_accepted"]
