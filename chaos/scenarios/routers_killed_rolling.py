"""Every router dies once, one after the other."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The next is killed once the one before is back."""
    load = stage.load(rate=15, retry_elsewhere=True)
    stage.rest(2)
    for victim in stage.routers:
        index = stage.kill(victim)
        stage.rest(3)
        stage.bring_back(victim, index)
        stage.converged()
    stage.rest(2)
    load.end()
    failed = [request for request in load.requests if not request.served]
    stage.at_most("failed requests of clients that retry once on the next region", len(failed), 0)


SCENARIO = Scenario(
    what="kill -9 of each router in turn; the next one once the one before is back.",
    expected="Clients that retry once on the next region lose nothing.",
    bound="0 failed requests with one retry",
    run=run,
)
