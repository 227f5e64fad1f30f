"""One backend says that it is well and fails every request."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    load = stage.load(rate=20)
    stage.rest(3)
    victim = stage.fleet.mocks[0]
    stage.note("backend_lies_health")
    victim.faults({"action": {"status": {"code": 500}}})
    stage.rest(12)
    victim.faults()
    stage.note("over")
    stage.rest(4)
    load.end()
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors", 100 * len(failed) / max(1, len(stage.attempts())), 1.0, "%")


SCENARIO = Scenario(
    what="A cluster's `/health` says ok while every request gets 500.",
    expected="Its breaker opens on outcomes, not on what it says; requests fall back.",
    bound="every request answered or a typed error; errors ≤ 1 %",
    run=run,
)
