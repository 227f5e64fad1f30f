"""A router is killed and started again ten times in a row."""

from __future__ import annotations

from lab.stage import Scenario, Stage

TIMES = 10


def run(stage: Stage) -> None:
    """No pause but for its start."""
    victim = stage.routers[0]
    load = stage.load(rate=12, retry_elsewhere=True)
    stage.rest(2)
    index = stage.excuse(victim)
    stage.note(f"{TIMES} times kill -9 and start")
    for _ in range(TIMES):
        victim.kill()
        victim.spawn()
        stage.rest(0.7)
    victim.wait_ready()
    stage.excuse_ends(index)
    stage.at_most("views equal after the storm", stage.converged(), 5, "s")
    stage.rest(2)
    load.end()
    failed = [request for request in load.requests if not request.served]
    stage.at_most("failed requests of clients that retry once on the next region", len(failed), 0)


SCENARIO = Scenario(
    what="A router is killed and started ten times, 0.7 s apart.",
    expected="Each start is a new incarnation; facts of earlier ones are gone; the others serve on.",
    bound="0 failed requests with one retry, views equal ≤ 5 s after the storm",
    run=run,
)
