"""One region is heard by nobody, but hears everybody."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """Cuts what the first region sends to the others."""
    stage.far()
    stage.load(rate=12)
    stage.load(rate=1, max_tokens=400, stream_share=1)
    stage.rest(4)
    silent, *others = stage.routers
    stage.note(f"{silent.name} is not heard")
    for other in others:
        stage.ground.link(silent.place, other.place, down=True)
    stage.seconds_until(
        lambda: all(silent.name not in router.live() for router in others), 15, "the others take it for dead"
    )
    stage.rest(8)
    for other in others:
        stage.ground.link(silent.place, other.place, down=False)
    stage.note("healed")
    stage.at_most("views equal after the partition", stage.converged(), 2, "s")
    stage.rest(4)
    stage.at_most("streams cut between a router and a backend of its own region", stage.broken_at_home(), 0)


SCENARIO = Scenario(
    what="What one region sends to the others is lost, one way, for 8 s and more while clients stream.",
    expected="Every region serves on; views agree again at once after the end.",
    bound="every request answered or a typed error, no stream within a region cut, views equal ≤ 2 s after the end",
    run=run,
    wan=True,
)
