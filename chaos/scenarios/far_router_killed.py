"""A router dies and returns while the regions are far apart."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The same as on a short way, over 80 to 150 ms and 5 % loss."""
    stage.far()
    load = stage.load(rate=12, retry_elsewhere=True)
    long = stage.load(rate=1, max_tokens=400, stream_share=1, retry_elsewhere=True)
    stage.rest(5)
    victim, *others = stage.routers
    index = stage.kill(victim)
    known = stage.seconds_until(
        lambda: all(victim.name not in router.live() for router in others), 10, "the others know that it is dead"
    )
    stage.at_most("dead router known by all others", known, 2.5, "s")
    stage.rest(4)
    stage.bring_back(victim, index)
    stage.at_most("views equal after its return", stage.converged(), 5, "s")
    stage.rest(3)
    load.end()
    long.end()
    failed = [request for request in [*load.requests, *long.requests] if not request.served]
    stage.at_most("failed requests of clients that retry once on the next region", len(failed), 0)


SCENARIO = Scenario(
    what="kill -9 of a router and its return, regions 80 to 150 ms apart with 5 % loss, while clients stream.",
    expected="As on a short way: the others know within 2.5 s and serve on.",
    bound="0 failed requests with one retry, dead known ≤ 2.5 s, views equal ≤ 5 s after its return",
    run=run,
    wan=True,
    quick=True,
)
