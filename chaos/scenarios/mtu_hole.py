"""Packets over 1,200 bytes vanish between two regions, without a word."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """A tunnel somebody forgot: no ICMP tells."""
    stage.far(loss=0)
    stage.load(rate=12)
    stage.rest(3)
    one, other = stage.routers[0].place, stage.routers[1].place
    stage.note("MTU black hole")
    stage.ground.both(one, other, mtu=1_250)
    stage.rest(15)
    alive = [len(router.live()) == len(stage.routers) for router in stage.routers]
    stage.figure("routers that see all others alive", sum(alive), "", "= all", all(alive))
    stage.ground.both(one, other, mtu=0)
    stage.note("mended")
    stage.at_most("views equal after", stage.converged(), 3, "s")
    stage.rest(2)
    stage.at_most("streams cut between a router and a backend of its own region", stage.broken_at_home(), 0)


SCENARIO = Scenario(
    what="Packets over 1,250 bytes are lost between two regions for 15 s, with no ICMP to tell.",
    expected="Gossip goes on: QUIC finds out what passes, or the third region passes facts on.",
    bound="nobody taken for dead, every request answered or a typed error",
    run=run,
    wan=True,
)
