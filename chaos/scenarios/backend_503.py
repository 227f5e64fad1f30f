"""One backend answers 503 for a while."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    load = stage.load(rate=20)
    stage.rest(3)
    victim = stage.fleet.mocks[0]
    stage.note("backend_503")
    victim.faults({"action": {"status": {"code": 503, "retryAfter": 1}}})
    stage.rest(12)
    victim.faults()
    stage.note("over")
    stage.rest(4)
    load.end()
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors", 100 * len(failed) / max(1, len(stage.attempts())), 0, "%")


SCENARIO = Scenario(
    what="A burst of 503 with Retry-After at one of six clusters.",
    expected="All requests fall back; the cluster is left alone as long as it asked.",
    bound="0 errors",
    run=run,
)
