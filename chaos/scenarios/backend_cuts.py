"""One backend breaks off in the middle of answers."""

from __future__ import annotations

from lab.faults import one_backend
from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    one_backend(stage, "backend_cuts", {"probability": 0.5, "action": {"cut": {"afterTokens": 5}}}, errors_percent=5.0)


SCENARIO = Scenario(
    what="Half of a cluster's answers break off after five tokens.",
    expected="A plain answer falls back; a stream ends with a typed error event; the breaker takes the cluster out.",
    bound="every request answered or a typed error; errors ≤ 5 %",
    run=run,
)
