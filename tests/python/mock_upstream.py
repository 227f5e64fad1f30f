"""The project's own mock upstream, `llm-router mock`, as a process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from binary import Service
from process import free_port
from settings import PROVIDER_KEY


class Mock(Service):
    """One simulated upstream that keeps books of what it was asked."""

    def __init__(
        self,
        kind: str,
        log: Path,
        *,
        model: str = "mock-model",
        ttft_ms: int = 5,
        tokens_per_second: float = 2_000,
        slots: int = 16,
        faults: list[dict[str, Any]] | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.kind = kind
        self.model = model
        arguments = ["mock", "--kind", kind, "--listen", f"127.0.0.1:{self.port}", "--model", model]
        arguments += ["--ttft-ms", str(ttft_ms), "--tokens-per-second", str(tokens_per_second), "--slots", str(slots)]
        if kind != "llama":
            arguments += ["--api-key", PROVIDER_KEY]
        if faults is not None:
            # JSON is YAML.
            file = log.with_suffix(".faults.yaml")
            file.write_text(json.dumps(faults))
            arguments += ["--faults", str(file)]
        super().__init__(f"mock-{kind}", arguments, log)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        super().start()
        self.wait_until(lambda: self.books() is not None, 10, "answers /mock/books")

    def books(self) -> dict[str, Any]:
        """What it counted."""
        answer = httpx.get(f"{self.url}/mock/books", timeout=5)
        answer.raise_for_status()
        return answer.json()

    def set_faults(self, faults: list[dict[str, Any]]) -> None:
        """Replaces its fault rules."""
        httpx.post(f"{self.url}/mock/faults", json=faults, timeout=5).raise_for_status()
