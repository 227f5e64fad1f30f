"""A region is lost; the name server moves its clients to the next, and back when it returns."""

from __future__ import annotations

import time

from lab.geodns import PLACE, REGIONS, GeoDns
from lab.load import ANSWERED, Target
from lab.stage import Scenario, Stage

# Two failures at an interval of 2 s, and the probe's own second.
MOVED_WITHIN = 8


def run(stage: Stage) -> None:
    """Kills the first region's router, later drains the second's; asks who is led where before, during and after."""
    names = GeoDns(stage)
    names.start()
    led = dict.fromkeys(("clients-0", "clients-1", "clients-2"))

    def look() -> dict[str, str | None]:
        for place in led:
            led[place] = names.resolve(place)
        return dict(led)

    def targets() -> list[Target]:
        place = f"clients-{stage.random.randrange(3)}"
        region = led[place]
        if region is None:
            return []
        router = stage.routers[REGIONS.index(region)]
        return [Target(router.name, router.address, place)]

    at_home = dict(zip(led, REGIONS, strict=True))
    stage.seconds_until(lambda: look() == at_home, 15, "all clients are led to their own region", 0.2)
    stage.note("all at home")
    stage.figure("before: who is led where", told(led), "", "each to its own", led == at_home)
    stage.load(rate=10, targets=targets)
    stage.rest(4)

    victim = stage.routers[0]
    index = stage.kill(victim)
    moved = {**at_home, "clients-0": REGIONS[1]}
    took = stage.seconds_until(lambda: look() == moved, 15, "clients of the dead region are moved", 0.2)
    moved_at = time.monotonic()
    stage.note("moved")
    stage.at_most("clients moved off a dead region", took, MOVED_WITHIN, "s")
    stage.figure("during: who is led where", told(led), "", "the dead region's to the next", led == moved)
    stage.rest(4)
    late = [a for a in stage.attempts() if a.ended_at and a.started > moved_at and a.outcome != ANSWERED]
    stage.at_most("requests lost after the move", len(late), 0)

    stage.bring_back(victim, index)
    took = stage.seconds_until(lambda: look() == at_home, 15, "clients are led back", 0.2)
    stage.note("back home")
    stage.at_most("clients led back", took, MOVED_WITHIN, "s")

    second = stage.routers[1]
    leaving = stage.excuse(second)
    stage.note(f"{second.name} is told to end")
    code = second.terminate()
    stage.figure("exit code of the drained router", code if code is not None else "killed", "", "0", code == 0)
    drained = {**at_home, "clients-1": REGIONS[2]}
    took = stage.seconds_until(lambda: look() == drained, 15, "clients of the drained region are moved", 0.2)
    stage.at_most("clients moved off a drained region", took, MOVED_WITHIN, "s")
    stage.bring_back(second, leaving)
    stage.seconds_until(lambda: look() == at_home, 15, "all are led home again", 0.2)
    stage.figure("after: who is led where", told(led), "", "each to its own", led == at_home)
    stage.rest(2)


def told(led: dict[str, str | None]) -> str:
    """Who is led where."""
    return ", ".join(f"{place} to {region}" for place, region in led.items())


SCENARIO = Scenario(
    what="An authoritative name server (gdnsd, with the configuration operators get) asks each region's `/readyz`; a "
    "region dies and returns, another drains and returns.",
    expected="Clients of the lost region are led to the next nearest, the others stay, and all return home.",
    bound="clients moved ≤ 8 s after the loss (two failed probes at 2 s), back ≤ 8 s, 0 requests lost after the move",
    run=run,
    programs=("gdnsd", "curl"),
    places=(PLACE,),
    quick=True,
    memory=False,
)
