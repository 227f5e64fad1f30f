"""llmock, an emulator of providers that nobody here wrote, as a process.

It speaks for OpenAI, Anthropic and Gemini, breaks its answers on demand, keeps every request, and gives
a verdict on its client, which here is the router.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
from process import Process, free_port

# Where it speaks for each provider.
PREFIXES = {"openai": "/v1", "anthropic": "/anthropic", "gemini": "/gemini"}

# Matches requests that name a model, so not the node's own looks at the list of models.
ANY_MODEL = "?*"


class Emulator(Process):
    """One emulator of all three providers."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        program = Path(sys.executable).with_name("llmock")
        command = [str(program), "serve", "--port", str(self.port), "--log-level", "warning"]
        self._client = httpx.Client(base_url=f"{self.url}/_llmock", timeout=10)
        super().__init__("llmock", command, log)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        super().start()
        self.wait_until(lambda: self._get("verdict").status_code == 200, 30, "gives a verdict")

    def base(self, kind: str) -> str:
        """The base URL of a provider, as its account settings name it."""
        return f"{self.url}{PREFIXES[kind]}"

    def reset(self) -> None:
        """Forgets every request and every behaviour."""
        self._post("reset", {})

    def script(self, model: str, behavior: dict[str, Any]) -> None:
        """Queues a behaviour, used up by requests to models of that name, in which `*` stands for anything."""
        match = {**behavior.get("match", {}), "model": model}
        self._post("scenario", {"behaviors": [{**behavior, "match": match}]})

    def requests(self, model: str | None = None) -> list[dict[str, Any]]:
        """What was asked of one model or of all, oldest first; the looks at its list of models left out."""
        requests = self._get("requests").json()["requests"]
        return [request for request in requests if request["method"] == "POST" and model in (None, request["model"])]

    def findings(self) -> list[str]:
        """What its verdict holds against its client: the codes, each once."""
        return sorted({finding["code"] for finding in self._get("verdict").json()["findings"]})

    def report(self) -> str:
        """The verdict as a person reads it."""
        return self._get("verdict?format=text").text

    def _get(self, what: str) -> httpx.Response:
        return self._client.get(what)

    def _post(self, what: str, body: dict[str, Any]) -> None:
        self._client.post(what, json=body).raise_for_status()
