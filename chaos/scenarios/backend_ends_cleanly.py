"""One backend ends answers in good form before they are complete, as llama-server does on SIGTERM."""

from __future__ import annotations

from lab.faults import one_backend
from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    one_backend(
        stage,
        "backend_ends_cleanly",
        {"probability": 0.5, "action": {"cleanEnd": {"afterTokens": 5}}},
        errors_percent=5.0,
    )


SCENARIO = Scenario(
    what="Half of a cluster's answers end without finish reason.",
    expected="As a cut: never taken for a whole answer.",
    bound="every request answered or a typed error; errors ≤ 5 %",
    run=run,
)
