"""A router stands still for 1, 5 and 30 seconds."""

from __future__ import annotations

import signal

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """SIGSTOP and SIGCONT; its sockets stay open, so its clients wait."""
    victim, *others = stage.routers
    load = stage.load(rate=12)
    stage.rest(3)
    for seconds in (1, 5, 30):
        index = stage.excuse(victim)
        stage.note(f"SIGSTOP {victim.name} for {seconds} s")
        victim.signal(signal.SIGSTOP)
        stage.rest(seconds)
        if seconds > 5:
            seen = all(victim.name not in router.live() for router in others)
            stage.figure(f"taken for dead after {seconds} s", "yes" if seen else "no", "", "yes", seen)
        victim.signal(signal.SIGCONT)
        stage.note("SIGCONT")
        stage.at_most(f"views equal after {seconds} s", stage.converged(), 5, "s")
        stage.excuse_ends(index)
    stage.rest(3)
    load.end()
    wrong = [a for a in stage.attempts() if a.router != victim.name and a.outcome != "answered"]
    stage.at_most("errors at the other routers", len(wrong), 0)
    lost = [a for a in stage.attempts() if a.router == victim.name and a.outcome in ("silent", "untyped error")]
    stage.at_most("requests at the stopped router that nobody ever answered", len(lost), 0)


SCENARIO = Scenario(
    what="SIGSTOP of a router for 1, 5 and 30 s, then SIGCONT.",
    expected="The others take it for dead and serve on; when it goes on it answers what waited and is alive again.",
    bound="0 errors at the others, views equal ≤ 5 s after SIGCONT, no request left without an answer",
    run=run,
)
