"""What a client of each dialect asks and reads, written without any SDK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from router import Router
from sse import DONE, Event, SseStream

TOOL = "get_weather"
TOOL_ABOUT = "Tells the weather of a city."
TOOL_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SYSTEM = "Be brief."
MAX_TOKENS = 200
TEMPERATURE = 0.5
STOP = "###"


@dataclass
class Answer:
    """What a client understood of an answer."""

    text: str = ""
    # Name and arguments, the arguments as the dialect has them: an object, or its pieces joined.
    calls: list[tuple[str, Any]] | None = None
    finish: str | None = None
    output_tokens: int = 0
    error: dict[str, Any] | None = None
    # Whether the stream ended as the dialect says a stream ends.
    ended: bool = False
    # For the next turn: the answer as the client would send it back.
    turn: Any = None


class Dialect:
    """One dialect; a subclass per vendor, whose methods do what is said here."""

    name: str
    # How a finished text and a tool call are told.
    finished: str
    called: str

    def ask(self, router: Router, model: str, turns: list[Any], *, tools: bool = False) -> httpx.Response:
        """A question whose answer comes whole."""
        return router.post(self.path(model, stream=False), self.body(model, turns, stream=False, tools=tools))

    def stream(self, router: Router, model: str, turns: list[Any], *, tools: bool = False) -> SseStream:
        """A question whose answer comes in pieces."""
        url = f"{router.url}{self.path(model, stream=True)}"
        return SseStream(url, self.body(model, turns, stream=True, tools=tools))

    def path(self, model: str, *, stream: bool) -> str:
        """Where the question goes."""
        raise NotImplementedError

    def body(self, model: str, turns: list[Any], *, stream: bool, tools: bool) -> dict[str, Any]:
        """The question."""
        raise NotImplementedError

    def question(self, text: str) -> Any:
        """A turn of the user."""
        raise NotImplementedError

    def results(self, answer: Answer) -> list[Any]:
        """The turns that give the model what its tool calls brought."""
        raise NotImplementedError

    def read(self, answer: dict[str, Any]) -> Answer:
        """Understands a whole answer."""
        raise NotImplementedError

    def read_stream(self, events: list[Event]) -> Answer:
        """Understands a stream."""
        raise NotImplementedError

    def error_kind(self, error: dict[str, Any]) -> str:
        """The type that the error has in this dialect."""
        return error["type"]


class OpenAi(Dialect):
    """Chat completions."""

    name = "openai"
    finished = "stop"
    called = "tool_calls"

    def path(self, model: str, *, stream: bool) -> str:  # noqa: D102, ARG002
        return "/v1/chat/completions"

    def body(self, model: str, turns: list[Any], *, stream: bool, tools: bool) -> dict[str, Any]:  # noqa: D102
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "system", "content": SYSTEM}, *turns],
            "max_completion_tokens": MAX_TOKENS,
            "temperature": TEMPERATURE,
            "stop": [STOP],
        }
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if tools:
            function = {"name": TOOL, "description": TOOL_ABOUT, "parameters": TOOL_SCHEMA}
            body["tools"] = [{"type": "function", "function": function}]
        return body

    def question(self, text: str) -> Any:  # noqa: D102
        return {"role": "user", "content": text}

    def results(self, answer: Answer) -> list[Any]:  # noqa: D102
        told = [{"role": "tool", "tool_call_id": call["id"], "content": "Rain."} for call in answer.turn["tool_calls"]]
        return [answer.turn, *told]

    def read(self, answer: dict[str, Any]) -> Answer:  # noqa: D102
        choice = answer["choices"][0]
        message = choice["message"]
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []]
        turn = {key: message[key] for key in ("role", "content", "tool_calls") if message.get(key) is not None}
        used = answer["usage"]["completion_tokens"]
        return Answer(message.get("content") or "", calls, choice["finish_reason"], used, ended=True, turn=turn)

    def read_stream(self, events: list[Event]) -> Answer:  # noqa: D102
        answer = Answer(calls=[], ended=bool(events) and events[-1].data == DONE)
        calls: dict[int, dict[str, Any]] = {}
        for chunk in (event.json() for event in events if event.data != DONE):
            answer.error = chunk.get("error") or answer.error
            answer.output_tokens = (chunk.get("usage") or {}).get("completion_tokens", answer.output_tokens)
            for choice in chunk.get("choices") or []:
                answer.text += choice["delta"].get("content") or ""
                answer.finish = choice.get("finish_reason") or answer.finish
                for piece in choice["delta"].get("tool_calls") or []:
                    empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
                    call = calls.setdefault(piece["index"], empty)
                    call["id"] += piece.get("id") or ""
                    for key in ("name", "arguments"):
                        call["function"][key] += piece.get("function", {}).get(key) or ""
        answer.calls = [(call["function"]["name"], call["function"]["arguments"]) for call in calls.values()]
        answer.turn = {"role": "assistant", "tool_calls": list(calls.values())}
        return answer


class Anthropic(Dialect):
    """Messages."""

    name = "anthropic"
    finished = "end_turn"
    called = "tool_use"

    def path(self, model: str, *, stream: bool) -> str:  # noqa: D102, ARG002
        return "/v1/messages"

    def body(self, model: str, turns: list[Any], *, stream: bool, tools: bool) -> dict[str, Any]:  # noqa: D102
        body: dict[str, Any] = {
            "model": model,
            "system": SYSTEM,
            "messages": turns,
            "max_tokens": MAX_TOKENS,
            "temperature": TEMPERATURE,
            "stop_sequences": [STOP],
        }
        if stream:
            body["stream"] = True
        if tools:
            body["tools"] = [{"name": TOOL, "description": TOOL_ABOUT, "input_schema": TOOL_SCHEMA}]
        return body

    def question(self, text: str) -> Any:  # noqa: D102
        return {"role": "user", "content": [{"type": "text", "text": text}]}

    def results(self, answer: Answer) -> list[Any]:  # noqa: D102
        told = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "Rain."}
            for block in answer.turn["content"]
            if block["type"] == "tool_use"
        ]
        return [answer.turn, {"role": "user", "content": told}]

    def read(self, answer: dict[str, Any]) -> Answer:  # noqa: D102
        blocks = answer["content"]
        text = "".join(block["text"] for block in blocks if block["type"] == "text")
        calls = [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
        turn = {"role": "assistant", "content": blocks}
        return Answer(text, calls, answer["stop_reason"], answer["usage"]["output_tokens"], ended=True, turn=turn)

    def read_stream(self, events: list[Event]) -> Answer:  # noqa: D102
        answer = Answer(calls=[], ended=bool(events) and events[-1].name in ("message_stop", "error"))
        blocks: dict[int, dict[str, Any]] = {}
        pieces: dict[int, str] = {}
        for event in events:
            chunk = event.json()
            assert event.name == chunk["type"], event
            match chunk["type"]:
                case "content_block_start":
                    blocks[chunk["index"]] = dict(chunk["content_block"])
                case "content_block_delta" if chunk["delta"]["type"] == "text_delta":
                    answer.text += chunk["delta"]["text"]
                case "content_block_delta" if chunk["delta"]["type"] == "input_json_delta":
                    at = chunk["index"]
                    pieces[at] = pieces.get(at, "") + chunk["delta"]["partial_json"]
                case "message_delta":
                    answer.finish = chunk["delta"]["stop_reason"]
                    answer.output_tokens = chunk["usage"]["output_tokens"]
                case "error":
                    answer.error = chunk["error"]
        answer.calls = [(block["name"], pieces[at]) for at, block in blocks.items() if block["type"] == "tool_use"]
        return answer


class Gemini(Dialect):
    """`generateContent`."""

    name = "gemini"
    finished = "STOP"
    called = "STOP"

    def path(self, model: str, *, stream: bool) -> str:  # noqa: D102
        action = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"/v1beta/models/{model}:{action}"

    def body(self, model: str, turns: list[Any], *, stream: bool, tools: bool) -> dict[str, Any]:  # noqa: D102, ARG002
        body: dict[str, Any] = {
            "systemInstruction": {"parts": [{"text": SYSTEM}]},
            "contents": turns,
            "generationConfig": {
                "maxOutputTokens": MAX_TOKENS,
                "temperature": TEMPERATURE,
                "stopSequences": [STOP],
            },
        }
        if tools:
            function = {"name": TOOL, "description": TOOL_ABOUT, "parametersJsonSchema": TOOL_SCHEMA}
            body["tools"] = [{"functionDeclarations": [function]}]
        return body

    def question(self, text: str) -> Any:  # noqa: D102
        return {"role": "user", "parts": [{"text": text}]}

    def results(self, answer: Answer) -> list[Any]:  # noqa: D102
        told = []
        for part in answer.turn["parts"]:
            if call := part.get("functionCall"):
                identity = {"id": call["id"]} if "id" in call else {}
                response = {**identity, "name": call["name"], "response": {"output": "Rain."}}
                told.append({"functionResponse": response})
        return [answer.turn, {"role": "user", "parts": told}]

    def read(self, answer: dict[str, Any]) -> Answer:  # noqa: D102
        candidate = answer["candidates"][0]
        parts = candidate["content"]["parts"]
        calls = [
            (part["functionCall"]["name"], part["functionCall"]["args"]) for part in parts if "functionCall" in part
        ]
        text = "".join(part.get("text", "") for part in parts)
        used = answer["usageMetadata"]["candidatesTokenCount"]
        return Answer(text, calls, candidate["finishReason"], used, ended=True, turn=candidate["content"])

    def read_stream(self, events: list[Event]) -> Answer:  # noqa: D102
        answer = Answer(calls=[])
        for chunk in (event.json() for event in events):
            answer.error = chunk.get("error") or answer.error
            usage = chunk.get("usageMetadata") or {}
            answer.output_tokens = usage.get("candidatesTokenCount", answer.output_tokens)
            for candidate in chunk.get("candidates") or []:
                answer.finish = candidate.get("finishReason") or answer.finish
                for part in (candidate.get("content") or {}).get("parts") or []:
                    answer.text += part.get("text", "")
                    if call := part.get("functionCall"):
                        answer.calls.append((call["name"], call["args"]))
        # The dialect has no end mark of its own.
        answer.ended = answer.finish is not None or answer.error is not None
        return answer

    def error_kind(self, error: dict[str, Any]) -> str:  # noqa: D102
        assert isinstance(error["code"], int)
        return error["status"]


DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (OpenAi(), Anthropic(), Gemini())}
