"""Clients that ask, stream and write down what happened to each request.

One thread with one event loop. HTTP is spoken by hand, so that what is recorded is what was on the wire.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .fleet import CLIENT_KEY, MODEL, PROMPT_CANARY
from .ground import Ground

# A router must have answered by then, whatever happens: its own `timeouts.total` is 60 s.
ANSWERED_WITHIN = 75.0
CONNECTED_WITHIN = 5.0

ANSWERED = "answered"
TYPED_ERROR = "typed error"
STREAM_ERROR = "typed error in the stream"
NOT_CONNECTED = "not connected"
CUT = "cut"
SILENT = "silent"
UNTYPED = "untyped error"
GOOD = (ANSWERED,)
# What a client can act on.
HONEST = (ANSWERED, TYPED_ERROR, STREAM_ERROR)


@dataclass
class Attempt:
    """One request at one router. Times are seconds of this machine's monotonic clock."""

    router: str
    started: float
    stream: bool
    prompt: int
    outcome: str = SILENT
    status: int | None = None
    first_at: float | None = None
    ended_at: float | None = None
    last_at: float | None = None
    gap_max: float = 0.0
    backend: str | None = None
    via: str | None = None
    reason: str | None = None
    error: str | None = None
    body: str = ""
    text: str = ""
    events: int = 0

    @property
    def ttft(self) -> float | None:
        """Time to the first content, where there was any."""
        return None if self.first_at is None else self.first_at - self.started


@dataclass
class Request:
    """What a client wanted once, with the attempts it took."""

    number: int
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def served(self) -> bool:
        """Whether some attempt was answered whole."""
        return any(attempt.outcome in GOOD for attempt in self.attempts)

    @property
    def last(self) -> Attempt:
        """How it ended."""
        return self.attempts[-1]


@dataclass(frozen=True)
class Target:
    """Where a client sends its requests, and where it stands itself."""

    name: str
    address: tuple[str, int]
    place: str


def prompt(number: int) -> str:
    """One of a few questions; all of them hold the canary."""
    return f"{PROMPT_CANARY} question {number}: " + "tell me more of it. " * (1 + number % 3)


class Load:
    """Requests at a steady rate, or in a fixed number at once, until told to end."""

    def __init__(
        self,
        ground: Ground,
        targets: Callable[[], list[Target]],
        *,
        rate: float = 0,
        workers: int = 0,
        max_tokens: int = 16,
        stream_share: float = 0.5,
        retry_elsewhere: bool = False,
        at_once_max: int = 2_000,
        read_slowly: float = 0,
        model: str = MODEL,
        seed: int = 1,
        answered_within: float = ANSWERED_WITHIN,
    ) -> None:
        """`targets` is asked for every request: the first is tried, the second only with `retry_elsewhere`.

        `rate` is requests per second, `workers` a number at once; `read_slowly` seconds between two reads of a stream.
        """
        self.ground = ground
        self.targets = targets
        self.rate = rate
        self.workers = workers
        self.max_tokens = max_tokens
        self.stream_share = stream_share
        self.retry_elsewhere = retry_elsewhere
        self.at_once_max = at_once_max
        self.read_slowly = read_slowly
        self.model = model
        self.answered_within = answered_within
        self.random = random.Random(seed)
        self.requests: list[Request] = []
        self.dropped = 0
        self._ended = threading.Event()
        self._running = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True, name="load")

    def start(self) -> Load:
        """Begins to ask."""
        self._thread.start()
        return self

    def end(self, within: float = ANSWERED_WITHIN + 10) -> list[Request]:
        """Asks no more, waits for what is under way and returns everything."""
        self._ended.set()
        self._thread.join(within)
        assert not self._thread.is_alive(), "the load does not end"
        return self.requests

    def abandon(self) -> None:
        """Asks no more, and gives what is under way a moment to break: the routers are gone."""
        self._ended.set()
        self._thread.join(8)

    @property
    def under_way(self) -> int:
        """Requests that have not ended."""
        return self._running

    async def _run(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        if self.workers:
            tasks = {asyncio.create_task(self._work()) for _ in range(self.workers)}
            await asyncio.gather(*tasks)
            return
        next_at = time.monotonic()
        while not self._ended.is_set():
            wait = next_at - time.monotonic()
            if wait > 0:
                await asyncio.sleep(min(wait, 0.1))
                continue
            next_at += self.random.expovariate(self.rate)
            if len(tasks) >= self.at_once_max:
                self.dropped += 1
                continue
            task = asyncio.create_task(self._request())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks)

    async def _work(self) -> None:
        while not self._ended.is_set():
            await self._request()
            if self.requests and self.requests[-1].last.outcome == NOT_CONNECTED:
                await asyncio.sleep(0.05)

    async def _request(self) -> None:
        targets = self.targets()
        if not targets:
            await asyncio.sleep(0.05)
            return
        request = Request(len(self.requests))
        self.requests.append(request)
        self._running += 1
        stream = self.random.random() < self.stream_share
        number = self.random.randrange(8)
        try:
            for target in targets[: 2 if self.retry_elsewhere else 1]:
                attempt = Attempt(target.name, time.monotonic(), stream, number)
                request.attempts.append(attempt)
                await self._attempt(target, attempt)
                if attempt.outcome in GOOD:
                    return
        finally:
            self._running -= 1

    async def _attempt(self, target: Target, attempt: Attempt) -> None:
        try:
            async with asyncio.timeout(self.answered_within):
                await self._exchange(target, attempt)
        except TimeoutError:
            attempt.outcome = SILENT
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            attempt.error = repr(error)
            attempt.outcome = CUT
        finally:
            attempt.ended_at = time.monotonic()

    async def _exchange(self, target: Target, attempt: Attempt) -> None:
        loop = asyncio.get_running_loop()
        line = self.ground.socket(target.place)
        line.setblocking(False)
        try:
            async with asyncio.timeout(CONNECTED_WITHIN):
                await loop.sock_connect(line, target.address)
        except (OSError, TimeoutError) as error:
            line.close()
            attempt.error = repr(error)
            attempt.outcome = NOT_CONNECTED
            return
        except BaseException:
            line.close()
            raise
        reader, writer = await asyncio.open_connection(sock=line, limit=1 << 18)
        try:
            writer.write(self._question(attempt))
            await writer.drain()
            await self._answer(reader, attempt)
        finally:
            writer.close()

    def _question(self, attempt: Attempt) -> bytes:
        body = json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": prompt(attempt.prompt)}],
                "max_tokens": self.max_tokens,
                "stream": attempt.stream,
            }
        ).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {CLIENT_KEY}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        return head.encode() + body

    async def _answer(self, reader: asyncio.StreamReader, attempt: Attempt) -> None:
        status = await reader.readline()
        if not status:
            attempt.outcome = CUT
            return
        attempt.status = int(status.split()[1])
        headers: dict[str, str] = {}
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        attempt.backend = headers.get("x-llm-router-backend")
        attempt.via = headers.get("x-llm-router-via")
        attempt.reason = headers.get("x-llm-router-reason")
        if headers.get("content-type", "").startswith("text/event-stream"):
            await self._read_stream(reader, attempt)
        else:
            await self._read_whole(reader, headers, attempt)

    async def _read_whole(self, reader: asyncio.StreamReader, headers: dict[str, str], attempt: Attempt) -> None:
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = b"".join([piece async for piece in pieces(reader)])
        attempt.first_at = time.monotonic()
        try:
            value: Any = json.loads(body)
        except ValueError:
            attempt.body = body[:2000].decode(errors="replace")
            attempt.outcome = UNTYPED
            return
        if attempt.status == 200:
            attempt.text = value["choices"][0]["message"]["content"]
            attempt.outcome = ANSWERED if value["choices"][0]["finish_reason"] else UNTYPED
            return
        attempt.body = body[:2000].decode(errors="replace")
        attempt.first_at = None
        error = value.get("error") if isinstance(value, dict) else None
        typed = isinstance(error, dict) and error.get("message") and error.get("type")
        attempt.error = (error or {}).get("code") or (error or {}).get("type") if typed else None
        attempt.outcome = TYPED_ERROR if typed else UNTYPED

    async def _read_stream(self, reader: asyncio.StreamReader, attempt: Attempt) -> None:
        rest = b""
        finished = done = False
        async for piece in pieces(reader):
            rest += piece
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                now = time.monotonic()
                if attempt.last_at is not None:
                    attempt.gap_max = max(attempt.gap_max, now - attempt.last_at)
                attempt.last_at = now
                attempt.events += 1
                if data == b"[DONE]":
                    done = True
                    continue
                event = json.loads(data)
                if event.get("error"):
                    attempt.body = data[:2000].decode(errors="replace")
                    attempt.error = event["error"].get("code") or event["error"].get("type")
                    attempt.outcome = STREAM_ERROR if attempt.error else UNTYPED
                for choice in event.get("choices") or []:
                    finished = finished or bool(choice.get("finish_reason"))
                    content = (choice.get("delta") or {}).get("content")
                    if content:
                        attempt.first_at = attempt.first_at or now
                        attempt.text += content
            if self.read_slowly:
                await asyncio.sleep(self.read_slowly)
        if attempt.outcome == SILENT:
            attempt.outcome = ANSWERED if finished and done else CUT


async def pieces(reader: asyncio.StreamReader) -> Any:
    """The pieces of a chunked body; raises where it breaks off."""
    while True:
        size = await reader.readline()
        if not size.endswith(b"\r\n"):
            raise asyncio.IncompleteReadError(size, None)
        length = int(size, 16)
        if length == 0:
            await reader.readline()
            return
        yield await reader.readexactly(length)
        await reader.readexactly(2)
