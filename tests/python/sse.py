"""A small client of server-sent events that notes when each event came, and can hang up at any time.

It knows nothing of any SDK, so it sees what is really on the wire.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from waiting import eventually

DONE = "[DONE]"


@dataclass(frozen=True)
class Event:
    """One event. `at` is in seconds since the request was sent."""

    at: float
    data: str
    name: str | None = None

    def json(self) -> Any:
        """Its data as JSON."""
        return json.loads(self.data)


@dataclass
class Answer:
    """What has been seen of the answer so far."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    body: bytes = b""
    error: Exception | None = None
    ended_at: float | None = None


class SseStream:
    """One POST whose answer is read in a thread of its own."""

    def __init__(
        self, url: str, body: dict[str, Any], headers: dict[str, str] | None = None, timeout: float = 60
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        self.answer = Answer()
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        self._started = time.monotonic()
        self._connection.connect()
        all_headers = {"content-type": "application/json", **(headers or {})}
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self._connection.request("POST", target, json.dumps(body).encode(), all_headers)
        # Taken now: http.client lets go of the socket once the answer says `connection: close`.
        self._socket = self._connection.sock
        self._thread = threading.Thread(target=self._read, name=f"sse {parts.path}", daemon=True)
        self._thread.start()

    def __enter__(self) -> SseStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    @property
    def events(self) -> list[Event]:
        """The events so far."""
        return list(self.answer.events)

    @property
    def ended(self) -> bool:
        """Whether the answer is over, one way or the other."""
        return self.answer.ended_at is not None

    @property
    def text(self) -> str:
        """The content of an OpenAI chat stream so far."""
        pieces = []
        for event in self.events:
            if event.data != DONE:
                for choice in event.json().get("choices") or []:
                    pieces.append((choice.get("delta") or {}).get("content") or "")
        return "".join(pieces)

    def wait_for_text(self, length: int, within: float = 20) -> None:
        """Waits until that many characters of content are there."""
        eventually(lambda: len(self.text) >= length or self.ended, within, f"{length} characters of content")
        assert len(self.text) >= length, f"the stream ended early: {self.answer}"

    def wait_for_end(self, within: float = 30) -> Answer:
        """Waits for the end of the answer and returns it."""
        eventually(lambda: self.ended, within, "the stream ends")
        return self.answer

    def hang_up(self) -> None:
        """Closes the connection at once, as a client does that goes away."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._connection.close()

    def _read(self) -> None:
        try:
            response = self._connection.getresponse()
            self.answer.headers = {name.lower(): value for name, value in response.getheaders()}
            self.answer.status = response.status
            if response.headers.get_content_type() != "text/event-stream":
                self.answer.body = response.read()
                return
            self._read_events(response)
        except Exception as error:  # noqa: BLE001 - kept for the test to judge
            self.answer.error = error
        finally:
            self.answer.ended_at = time.monotonic() - self._started

    def _read_events(self, response: http.client.HTTPResponse) -> None:
        data: list[str] = []
        name: str | None = None
        while line := response.readline():
            text = line.decode().rstrip("\r\n")
            if text.startswith("data:"):
                data.append(text[5:].removeprefix(" "))
            elif text.startswith("event:"):
                name = text[6:].strip()
            elif not text and data:
                self.answer.events.append(Event(time.monotonic() - self._started, "\n".join(data), name))
                data, name = [], None
