"""One router dies without a word and comes back."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """Kills the first, waits until the others know, brings it back."""
    load = stage.load(rate=20, retry_elsewhere=True)
    stage.rest(4)
    victim, *others = stage.routers
    index = stage.kill(victim)
    known = stage.seconds_until(
        lambda: all(victim.name not in router.live() for router in others), 10, "the others know that it is dead"
    )
    stage.at_most("dead router known by all others", known, 2.5, "s")
    stage.rest(5)
    stage.bring_back(victim, index)
    stage.rest(3)
    load.end()
    failed = [request for request in load.requests if not request.served]
    stage.at_most("failed requests of clients that retry once on the next region", len(failed), 0)
    elsewhere = [a for a in stage.attempts() if a.router != victim.name and a.outcome != "answered"]
    stage.at_most("errors at the other routers", len(elsewhere), 0)


SCENARIO = Scenario(
    what="kill -9 of one router under load, then its return.",
    expected="The others serve on and know within 2.5 s; clients that retry once on the next region lose nothing.",
    bound="0 failed requests with one retry, 0 errors at the other routers, dead known ≤ 2.5 s",
    run=run,
    quick=True,
)
