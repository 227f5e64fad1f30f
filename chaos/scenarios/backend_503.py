"""One backend answers 503 for a while."""

from __future__ import annotations

from lab.faults import one_backend
from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    one_backend(stage, "backend_503", {"action": {"status": {"code": 503, "retryAfter": 1}}}, errors_percent=0)


SCENARIO = Scenario(
    what="A burst of 503 with Retry-After at one of six clusters.",
    expected="All requests fall back; the cluster is left alone as long as it asked.",
    bound="0 errors",
    run=run,
)
