"""One router node: a real `llm-router serve` process, seen as a client and as an operator."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import yaml
from binary import Service
from settings import ADMIN_TOKEN, HEALTH_INTERVAL, Settings
from sse import SseStream
from waiting import eventually

READY_WITHIN = 20.0
# Three failures in a row make a backend unhealthy; a little is left for a busy machine.
HEALTH_WITHIN = 3 * HEALTH_INTERVAL + 4.0
SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Router(Service):
    """One `serve` process."""

    def __init__(self, settings: Settings, file: Path, log: Path, env: dict[str, str] | None = None) -> None:
        self.settings = settings
        self.file = file
        self.url = f"http://127.0.0.1:{settings['server']['port']}"
        self.admin_url = f"http://{settings['admin']['listen']}"
        self.write_settings(settings)
        super().__init__(settings["node"]["name"], ["serve", "--config", str(file)], log, env)

    def write_settings(self, settings: Settings) -> None:
        """Puts another file in the place of the configuration, as editors do: by a rename."""
        self.settings = settings
        draft = self.file.with_suffix(".draft")
        draft.write_text(yaml.safe_dump(settings, sort_keys=False))
        draft.replace(self.file)

    def start(self) -> None:
        """Starts it and waits until it says it is ready, which takes one healthy backend."""
        super().start()
        self.wait_until(lambda: self.get("/readyz").status_code == 200, READY_WITHIN, "answers /readyz with 200")

    # --- as a client ---------------------------------------------------------------------------

    def get(self, path: str) -> httpx.Response:
        """A GET at the public listener."""
        return httpx.get(f"{self.url}{path}", timeout=10)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None, timeout: float = 30) -> httpx.Response:
        """A POST of JSON at the public listener."""
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=timeout)

    def chat(self, model: str, *, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        """One short chat turn, not streamed."""
        return self.post("/v1/chat/completions", chat_body(model, **more), headers)

    def stream(self, model: str, *, headers: dict[str, str] | None = None, **more: Any) -> SseStream:
        """One streamed chat turn, read by a client that knows no SDK."""
        return SseStream(f"{self.url}/v1/chat/completions", {**chat_body(model, **more), "stream": True}, headers)

    def openai(self, **options: Any) -> openai.OpenAI:
        """The official client, without its own retries: the router's are under test."""
        settings = {"api_key": "key-of-the-client", "max_retries": 0, "timeout": 30, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **settings)

    def served_models(self) -> set[str]:
        """The names that `/v1/models` lists."""
        return {model["id"] for model in self.get("/v1/models").json()["data"]}

    # --- as an operator ------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """What this node knows of the whole deployment."""
        answer = httpx.get(
            f"{self.admin_url}/admin/view", headers={"authorization": f"Bearer {ADMIN_TOKEN}"}, timeout=10
        )
        answer.raise_for_status()
        return answer.json()

    def backend(self, name: str) -> dict[str, Any]:
        """One backend of the view."""
        found = [backend for backend in self.view()["backends"] if backend["name"] == name]
        assert len(found) == 1, f"`{name}` is listed {len(found)} times"
        return found[0]

    def own(self, name: str) -> dict[str, Any]:
        """What this node itself observed of a backend; empty before its first probe."""
        return self.backend(name)["own"] or {}

    def member(self, name: str) -> dict[str, Any] | None:
        """The newest incarnation of a node in this node's view."""
        found = [member for member in self.view()["members"] if member["node"] == name]
        return max(found, key=lambda member: member["generation"], default=None)

    def wait_for_health(self, name: str, health: str, within: float = HEALTH_WITHIN) -> dict[str, Any]:
        """Waits until this node's own observation of a backend says so."""

        def look() -> dict[str, Any] | None:
            own = self.own(name)
            return own if own.get("health") == health else None

        return eventually(look, within, f"{self.name} finds `{name}` {health}")

    def wait_for_peer(self, name: str, accept: Callable[[dict[str, Any]], bool], within: float, what: str) -> None:
        """Waits until some peer's fact about a backend is accepted."""
        eventually(
            lambda: any(accept(fact) for fact in self.backend(name)["peers"]), within, f"{self.name}: `{name}` {what}"
        )

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 where there is none."""
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            sample = SAMPLE.match(line)
            if sample is None or sample["name"] != name:
                continue
            found = dict(LABEL.findall(sample["labels"] or ""))
            if all(found.get(label) == value for label, value in labels.items()):
                total += float(sample["value"])
        return total


def chat_body(model: str, **more: Any) -> dict[str, Any]:
    """A chat turn of a few tokens."""
    return {"model": model, "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 16, **more}
