"""The chaos suite inside the test command: a scenario as a test, with its complaints as the failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from binary import binary

ROOT = Path(__file__).resolve().parents[2]


def play(name: str, folder: Path, *options: str, within: float = 240) -> dict[str, Any] | str:
    """The result of one scenario, or why it cannot be run on this machine."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "chaos" / "run"), name, "--out", str(folder), *options],
        capture_output=True,
        text=True,
        timeout=within,
        env={**os.environ, "LLM_ROUTER_BIN": binary()},
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith(f"{name}: NOT RUN, ")]
    if told:
        return told[0]
    report = folder / "report.json"
    assert report.exists(), f"{done.stdout}\n{done.stderr}"
    return json.loads(report.read_text())[0]


def complaints(result: dict[str, Any]) -> list[str]:
    """What did not hold, but for durations: those are bounds of `chaos/run` on a machine that does nothing else.

    A scenario waits for each of its conditions with a deadline, so one that never comes true fails here too.
    """
    durations = {f"{figure['name']}: " for figure in result["figures"] if figure["unit"] == "s"}
    return [text for text in result["complaints"] if not any(text.startswith(name) for name in durations)]


def held(name: str, folder: Path) -> dict[str, Any]:
    """Plays a scenario that must hold; where namespaces cannot be made it is skipped with the reason."""
    result = play(name, folder, "--quick")
    if isinstance(result, str):
        pytest.skip(result)
    broken = complaints(result)
    assert not broken, "\n".join(broken)
    return result
