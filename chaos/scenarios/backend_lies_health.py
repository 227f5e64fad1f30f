"""One backend says that it is well and fails every request."""

from __future__ import annotations

from lab.faults import one_backend
from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    one_backend(stage, "backend_lies_health", {"action": {"status": {"code": 500}}}, errors_percent=1.0)


SCENARIO = Scenario(
    what="A cluster's `/health` says ok while every request gets 500.",
    expected="Its breaker opens on outcomes, not on what it says; requests fall back.",
    bound="every request answered or a typed error; errors ≤ 1 %",
    run=run,
)
