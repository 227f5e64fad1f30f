"""The ledger beside the books of an emulator that nobody here wrote: all dialects, whole, streamed, with tools.

The emulator keeps every request it got. Asked the same again, by hand and without the router, it states the
usage of each: the sum is its books. It knows no cached and no reasoning tokens; those are proven on our mock.
"""

from __future__ import annotations

import json

import accounts
import httpx
import pytest
import settings
import stage
from binary import command
from dialects import DIALECTS
from provider_emulator import ANY_MODEL, PREFIXES
from waiting import eventually

# USD per million tokens, as `accounts.account` has it.
PRICES = {"input": 10, "output": 30}
ROUNDS = 4


@pytest.fixture
def booked(crew, running_emulator, tmp_path):
    """A node with a ledger whose every provider is emulated."""
    path = tmp_path / "ledger.sqlite"
    timeouts = dict.fromkeys(("firstByte", "wholeAnswer", "idle"), f"{accounts.PATIENCE}s")
    node = settings.node("booked", providers=accounts.accounts(running_emulator), timeouts=timeouts)
    node["ledger"] = {"path": str(path), "commitTimeout": "60s"}
    return stage.router(crew, node), path


def stated(emulator, request) -> tuple[int, int]:
    """The tokens that the emulator states for a request it got before, asked for again as a whole answer."""
    body = {key: value for key, value in request["body"].items() if key not in ("stream", "stream_options")}
    path = request["path"].replace(":streamGenerateContent", ":generateContent")
    answer = httpx.post(f"{emulator.url}{path}", json=body, headers={"anthropic-version": "2023-06-01"}, timeout=10)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    if request["provider"] == "gemini":
        return told["usageMetadata"]["promptTokenCount"], told["usageMetadata"]["candidatesTokenCount"]
    if request["provider"] == "anthropic":
        return told["usage"]["input_tokens"], told["usage"]["output_tokens"]
    return told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]


def report(path, *arguments):
    done = command("ledger", "report", "--ledger", str(path), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_report_is_what_an_emulator_of_the_providers_states(booked, emulator):
    router, path = booked
    emulator.script(ANY_MODEL, {"type": "reply", "text": "Routers weigh prices, queues and 漢字 alike.", "times": None})
    asked = 0
    for turn in range(ROUNDS):
        for kind in accounts.KINDS:
            for dialect in DIALECTS.values():
                model = accounts.model(kind, "answer", dialect.name)
                question = [dialect.question(f"Question {turn}: " + "what do routers do? " * (turn + 1))]
                whole = dialect.ask(router, model, question, tools=turn % 2 == 1)
                assert whole.status_code == 200, whole.text
                with dialect.stream(router, model, question, tools=turn % 2 == 1) as stream:
                    assert stream.wait_for_end().status == 200
                asked += 2

    got = emulator.requests()
    assert {request["provider"] for request in got} == set(PREFIXES)
    assert {request["stream"] for request in got} == {True, False}
    books: dict[str, list[int]] = {}
    for request in got:
        sums = books.setdefault(request["model"], [0, 0, 0])
        for at, amount in enumerate((1, *stated(emulator, request))):
            sums[at] += amount

    eventually(lambda: report(path)["total"]["requests"] == asked, 10, "every request is settled")
    told = report(path, "--by", "model")
    ours = {row["model"]: [row["attempts"], row["input_tokens"], row["output_tokens"]] for row in told["rows"]}
    assert ours == books
    tokens = [sum(sums[at] for sums in books.values()) for at in (1, 2)]
    total = told["total"]
    assert (total["input_tokens"], total["output_tokens"], total["estimated"]) == (*tokens, 0)
    assert total["cost_pico_usd"] == tokens[0] * PRICES["input"] * 10**6 + tokens[1] * PRICES["output"] * 10**6
    assert command("ledger", "verify", "--ledger", str(path)).returncode == 0

    # As a provider would tell it a day later.
    day = report(path, "--by", "day")["rows"][0]["day"]
    export = path.with_name("usage.csv")
    lines = [f"{day},{model},{n},{read},{written}" for model, (n, read, written) in books.items()]
    export.write_text("day,model,requests,input_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    done = command("ledger", "reconcile", str(export), "--ledger", str(path), "--tolerance", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 differ" in done.stdout


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_what_fails_and_falls_back_is_a_row_of_its_own_and_counted_once(booked, emulator, kind, streamed, verdict):
    verdict.explain("truncated_stream_accepted", "the second account's whole answer is what the client gets")
    router, path = booked
    dialect = DIALECTS["openai"]
    model = accounts.model(kind, "status-500", "openai")
    emulator.script(model, {"type": "fail", "status": 500, "times": 1})
    question = [dialect.question("What do routers do?")]
    if streamed:
        with dialect.stream(router, model, question) as stream:
            assert stream.wait_for_end().status == 200
    else:
        assert dialect.ask(router, model, question).status_code == 200
    eventually(lambda: report(path)["total"]["requests"] == 1, 10, "the request is settled")
    total = report(path)["total"]
    served = [request for request in emulator.requests() if request["status"] == 200]
    assert (total["attempts"], total["requests"], total["errors"], len(served)) == (2, 1, 0, 1)
    assert (total["input_tokens"], total["output_tokens"]) == stated(emulator, served[0])
