"""One backend is a hundred times slower."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    load = stage.load(rate=20)
    stage.rest(3)
    victim = stage.fleet.mocks[0]
    stage.note("backend_slow")
    victim.faults({"action": {"slow": {"ttft": "3s", "tokensPerSecond": 8}}})
    stage.rest(12)
    victim.faults()
    stage.note("over")
    stage.rest(4)
    load.end()
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors", 100 * len(failed) / max(1, len(stage.attempts())), 1.0, "%")


SCENARIO = Scenario(
    what="One of six clusters needs 3 s to its first token.",
    expected="It is left out as soon as its latency is known; nothing fails.",
    bound="every request answered or a typed error; errors ≤ 1 %",
    run=run,
)
