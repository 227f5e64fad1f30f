"""The binary under test, named by `LLM_ROUTER_BIN`: its commands as processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from process import Process
from settings import ENVIRONMENT

STOPPED_WITHIN = 20.0
# `RUST_LOG` of the person who runs the tests must not change what is logged.
QUIET = {"LOG_LEVEL": "info", "RUST_LOG": "", "NO_COLOR": "1"}


def binary() -> str:
    """The path of the binary."""
    path = os.environ.get("LLM_ROUTER_BIN")
    assert path, "set LLM_ROUTER_BIN to the llm-router binary, or run `bash tests/run e2e`"
    return path


def command(*arguments: str, env: dict[str, str] | None = None, within: float = 30) -> subprocess.CompletedProcess[str]:
    """Runs a command that ends by itself."""
    return subprocess.run(
        [binary(), *arguments],
        capture_output=True,
        text=True,
        timeout=within,
        env={**os.environ, **QUIET, **ENVIRONMENT, **(env or {})},
        stdin=subprocess.DEVNULL,
        check=False,
    )


class Service(Process):
    """A command that runs until it is told to end, and must then end cleanly."""

    def __init__(self, name: str, arguments: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        super().__init__(name, [binary(), *arguments], log, {**QUIET, **ENVIRONMENT, **(env or {})})

    def stop(self) -> None:
        """Asks it to end, if it still runs, and expects exit code 0 and no panic, survived or not."""
        if self.running:
            code = self.terminate(STOPPED_WITHIN)
            assert code == 0, f"{self.name} ended with code {code} on SIGTERM"
        panics = [line for line in self.output().splitlines() if "panicked at" in line]
        assert not panics, f"{self.name} panicked: {panics}"
