"""One backend says that it is ill and serves."""

from __future__ import annotations

from lab.faults import one_backend
from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    one_backend(stage, "backend_seems_ill", {"action": "unhealthy"}, errors_percent=1.0)


SCENARIO = Scenario(
    what="A cluster's `/health` fails while it could serve.",
    expected="It is taken out; nothing fails.",
    bound="every request answered or a typed error; errors ≤ 1 %",
    run=run,
)
