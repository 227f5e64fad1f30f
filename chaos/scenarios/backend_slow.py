"""One backend is a hundred times slower."""

from __future__ import annotations

from lab.faults import one_backend
from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    one_backend(stage, "backend_slow", {"action": {"slow": {"ttft": "3s", "tokensPerSecond": 8}}}, errors_percent=1.0)


SCENARIO = Scenario(
    what="One of six clusters needs 3 s to its first token.",
    expected="It is left out as soon as its latency is known; nothing fails.",
    bound="every request answered or a typed error; errors ≤ 1 %",
    run=run,
)
