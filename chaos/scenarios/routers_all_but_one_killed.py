"""All routers but one die at once."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """Kills all but the last; clients of every region retry once on the next."""
    load = stage.load(rate=15, retry_elsewhere=True, targets=lambda: survivors_second(stage))
    stage.rest(3)
    *victims, survivor = stage.routers
    indices = [stage.kill(victim) for victim in victims]
    known = stage.seconds_until(lambda: set(survivor.live()) == {survivor.name}, 10, "the survivor knows")
    stage.at_most("the survivor knows that it is alone", known, 2.5, "s")
    stage.rest(6)
    for victim, index in zip(victims, indices, strict=True):
        stage.bring_back(victim, index)
    stage.at_most("views equal after their return", stage.converged(), 10, "s")
    stage.rest(2)
    load.end()
    failed = [request for request in load.requests if not request.served]
    stage.at_most("failed requests of clients that know the survivor", len(failed), 0)
    wrong = [a for a in stage.attempts() if a.router == survivor.name and a.outcome != "answered"]
    stage.at_most("errors at the survivor", len(wrong), 0)


def survivors_second(stage: Stage) -> list:
    """Each region's clients ask their own router; the survivor is the one they try next."""
    first, second, *_ = stage.targets(stage.random.randrange(len(stage.routers)))()
    last = stage.targets(len(stage.routers) - 1)()[0]
    return [first, last if first.name != last.name else second]


SCENARIO = Scenario(
    what="kill -9 of all routers but one at once, then their return.",
    expected="The survivor serves everything and knows that it is alone.",
    bound="0 errors at the survivor, 0 failed requests with one retry there, alone known ≤ 2.5 s",
    run=run,
)
