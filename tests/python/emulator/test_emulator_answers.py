"""Every client dialect in front of every emulated provider: text, tools and their results, whole and streamed."""

from __future__ import annotations

import json

import accounts
import pytest
from dialects import MAX_TOKENS, STOP, SYSTEM, TEMPERATURE, TOOL
from provider_emulator import ANY_MODEL, PREFIXES

TEXT = "Routers compare prices, queues and health, for naïve 漢字 and 😀 alike."


def say(emulator, text: str = TEXT) -> None:
    emulator.script(ANY_MODEL, {"type": "reply", "text": text, "times": None})


def ask(dialect, router, model, turns, *, streamed: bool, tools: bool = False):
    if not streamed:
        whole = dialect.ask(router, model, turns, tools=tools)
        assert whole.status_code == 200, whole.text
        return dialect.read(whole.json())
    with dialect.stream(router, model, turns, tools=tools) as stream:
        answer = stream.wait_for_end()
    assert answer.status == 200, answer.body
    assert answer.error is None
    return dialect.read_stream(answer.events)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_the_answer_comes_through_in_the_clients_dialect(router, emulator, kind, dialect, streamed):
    say(emulator)
    model = accounts.model(kind, "answer", dialect.name)
    answer = ask(dialect, router, model, [dialect.question("What do routers do?")], streamed=streamed)
    assert (answer.text, answer.finish, answer.error) == (TEXT, dialect.finished, None)
    assert answer.ended
    assert answer.output_tokens > 5, "the emulator counts some tokens per word"
    [sent] = emulator.requests()
    assert (sent["provider"], sent["model"], sent["stream"]) == (kind, model, streamed)


def sent_settings(kind: str, body: dict) -> dict:
    """What reached the provider of the settings that every dialect has."""
    if kind == "openai":
        system = "".join(
            message["content"] for message in body["messages"] if message["role"] in ("system", "developer")
        )
        limit = body.get("max_completion_tokens") or body["max_tokens"]
        stop = body["stop"]
        return {"system": system, "limit": limit, "temperature": body["temperature"], "stop": stop}
    if kind == "anthropic":
        system = body["system"]
        system = system if isinstance(system, str) else "".join(block["text"] for block in system)
        limit, stop = body["max_tokens"], body["stop_sequences"]
        return {"system": system, "limit": limit, "temperature": body["temperature"], "stop": stop}
    config = body["generationConfig"]
    system = "".join(part["text"] for part in body["systemInstruction"]["parts"])
    limit, stop = config["maxOutputTokens"], config["stopSequences"]
    return {"system": system, "limit": limit, "temperature": config["temperature"], "stop": stop}


def test_what_the_client_set_reaches_the_provider_in_its_own_words(router, emulator, kind, dialect):
    say(emulator)
    ask(dialect, router, accounts.model(kind, "answer", dialect.name), [dialect.question("Hi.")], streamed=False)
    [sent] = emulator.requests()
    expected = {"system": SYSTEM, "limit": MAX_TOKENS, "temperature": TEMPERATURE}
    found = sent_settings(kind, sent["body"])
    assert found.pop("stop") in ([STOP], STOP)
    assert found == expected


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_tool_is_called_and_its_result_goes_back(router, emulator, kind, dialect, streamed):
    # The emulator calls the tool it is offered with arguments that fit its schema, and answers in words
    # once it got the result: a result that it does not recognise makes it call again.
    model = accounts.model(kind, "tools", dialect.name)
    turns = [dialect.question("What is the weather in Paris?")]
    answer = ask(dialect, router, model, turns, streamed=streamed, tools=True)
    assert answer.finish == dialect.called
    [(name, arguments)] = answer.calls
    assert name == TOOL
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert set(arguments) == {"city"} and isinstance(arguments["city"], str)

    if streamed:
        # The turn to send back is taken from the same question asked whole.
        answer = ask(dialect, router, model, turns, streamed=False, tools=True)
    answer = ask(dialect, router, model, [*turns, *dialect.results(answer)], streamed=streamed, tools=True)
    assert (answer.calls, answer.finish) == ([], dialect.finished)
    assert answer.text
    assert "Rain." in json.dumps(emulator.requests()[-1]["body"])


def test_the_emulator_is_reached_where_each_provider_is(router, emulator, dialect):
    say(emulator)
    for kind in accounts.KINDS:
        ask(dialect, router, accounts.model(kind, "answer", dialect.name), [dialect.question("Hi.")], streamed=True)
    paths = [request["path"] for request in emulator.requests()]
    assert all(path.startswith(prefix) for path, prefix in zip(paths, PREFIXES.values(), strict=True)), paths
