"""A fault of one backend under load: what scenarios of that kind share."""

from __future__ import annotations

from lab.stage import Stage


def one_backend(stage: Stage, note: str, fault: dict, errors_percent: float) -> None:
    """The fault on one backend for 12 s, then none; at most so many of the requests may fail."""
    load = stage.load(rate=20)
    stage.rest(3)
    victim = stage.fleet.mocks[0]
    stage.note(note)
    victim.faults(fault)
    stage.rest(12)
    victim.faults()
    stage.note("over")
    stage.rest(4)
    load.end()
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors", 100 * len(failed) / max(1, len(stage.attempts())), errors_percent, "%")
