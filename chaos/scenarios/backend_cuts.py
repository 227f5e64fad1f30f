"""One backend breaks off in the middle of answers."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    load = stage.load(rate=20)
    stage.rest(3)
    victim = stage.fleet.mocks[0]
    stage.note("backend_cuts")
    victim.faults({"probability": 0.5, "action": {"cut": {"afterTokens": 5}}})
    stage.rest(12)
    victim.faults()
    stage.note("over")
    stage.rest(4)
    load.end()
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors", 100 * len(failed) / max(1, len(stage.attempts())), 5.0, "%")


SCENARIO = Scenario(
    what="Half of a cluster's answers break off after five tokens.",
    expected="A plain answer falls back; a stream ends with a typed error event; the breaker takes the cluster out.",
    bound="every request answered or a typed error; errors ≤ 5 %",
    run=run,
)
