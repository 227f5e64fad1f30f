"""All three regions lose each other."""

from __future__ import annotations

from lab.stage import Scenario, Stage

LASTS = 12


def run(stage: Stage) -> None:
    """Cuts every pair of regions, waits, heals."""
    stage.far()
    stage.load(rate=12)
    stage.load(rate=1, max_tokens=400, stream_share=1)
    stage.rest(4)
    regions = [router.place for router in stage.routers]
    stage.note("three-way partition")
    for one in regions:
        for other in regions:
            if one != other:
                stage.ground.link(one, other, down=True)
    stage.seconds_until(
        lambda: all(set(router.live()) == {router.name} for router in stage.routers),
        10,
        "each router sees itself alone",
    )
    stage.rest(LASTS)
    stage.ground.link("region-0", "*", down=False)
    stage.ground.link("*", "region-0", down=False)
    for one in regions:
        stage.ground.link(one, "*", down=False)
    stage.note("healed")
    stage.at_most("views equal after the partition", stage.converged(), 2, "s")
    stage.rest(4)
    stage.at_most("streams cut between a router and a backend of its own region", stage.broken_at_home(), 0)


SCENARIO = Scenario(
    what="Three regions 80 to 150 ms apart with 5 % loss lose each other for 12 s while clients stream.",
    expected="Each region serves on alone; requests to backends behind the cut fall back or end with a typed error.",
    bound="every request answered or a typed error, no stream within a region cut, views equal ≤ 2 s after the end",
    run=run,
    wan=True,
    quick=True,
)
