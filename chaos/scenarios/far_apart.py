"""Regions 150 ms apart with 5 % loss, and nothing else wrong."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """Load for a while."""
    places = [router.place for router in stage.routers]
    stage.ground.wan(places, rtt_ms=150, loss=0.05, jitter_ms=10)
    load = stage.load(rate=20)
    long = stage.load(rate=1, max_tokens=300, stream_share=1)
    stage.rest(60 * stage.minutes(0.4))
    load.end()
    long.end()
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors", len(failed), 0)
    dead = sum(router.output().count("live=false") for router in stage.routers)
    stage.figure("times a router was taken for dead", dead - len(stage.routers) * (len(stage.routers) - 1))


SCENARIO = Scenario(
    what="Three regions 150 ms apart with 5 % loss and 10 ms jitter, under load.",
    expected="Nothing is lost.",
    bound="0 errors",
    run=run,
    wan=True,
)
