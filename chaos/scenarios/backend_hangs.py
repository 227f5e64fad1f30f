"""One backend takes requests and says nothing."""

from __future__ import annotations

from lab.faults import one_backend
from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    one_backend(stage, "backend_hangs", {"action": "hang"}, errors_percent=1.0)


SCENARIO = Scenario(
    what="One of six clusters takes requests and never answers.",
    expected="Its requests fall back when the first byte is late; its breaker opens and keeps the others away.",
    bound="every request answered or a typed error; errors ≤ 1 %",
    run=run,
)
