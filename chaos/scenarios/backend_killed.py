"""One of twelve backends dies."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """Kills one, waits, starts it again."""
    load = stage.load(rate=30)
    stage.rest(5)
    victim = stage.fleet.mocks[0]
    stage.note(f"kill -9 {victim.name}")
    victim.kill()
    stage.rest(25)
    victim.start()
    stage.note(f"{victim.name} is back")
    stage.seconds_until(
        lambda: all(router.health(victim.name) == "healthy" for router in stage.routers), 15, "it is healthy again"
    )
    stage.rest(3)
    load.end()
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors", 100 * len(failed) / max(1, len(stage.attempts())), 0.1, "%")
    stage.at_most("errors without a type", sum("typed" not in a.outcome or a.error is None for a in failed), 0)


SCENARIO = Scenario(
    what="kill -9 of one of twelve clusters under load, and its return.",
    expected="Requests under way there fall back, or end with a typed error where content had begun.",
    bound="≤ 0.1 % errors, all typed",
    run=run,
    shape={"clusters": 4, "provider": None},
)
