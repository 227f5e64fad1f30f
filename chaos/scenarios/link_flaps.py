"""A link between two regions comes and goes every two seconds."""

from __future__ import annotations

from lab.stage import Scenario, Stage

FLAPS = 8


def run(stage: Stage) -> None:
    """Two seconds down, two seconds up."""
    stage.far()
    stage.load(rate=12)
    stage.rest(3)
    one, other = stage.routers[0].place, stage.routers[1].place
    stage.note("the link flaps")
    for _ in range(FLAPS):
        stage.ground.both(one, other, down=True)
        stage.rest(2)
        stage.ground.both(one, other, down=False)
        stage.rest(2)
    stage.note("it holds")
    stage.at_most("views equal after the last flap", stage.converged(), 3, "s")
    stage.rest(2)
    deaths = sum(router.output().count("live=false") for router in stage.routers)
    stage.figure("times a router was taken for dead", deaths - 2 * len(stage.routers), "", "")
    stage.at_most("streams cut between a router and a backend of its own region", stage.broken_at_home(), 0)


SCENARIO = Scenario(
    what="A link between two of three regions is cut and mended every 2 s, 8 times.",
    expected="Everybody serves on; views are equal soon after the last flap.",
    bound="every request answered or a typed error, views equal ≤ 3 s after",
    run=run,
    wan=True,
)
