"""Routers are told to end one after the other while long streams run."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """SIGTERM, its end, its return; its clients go to the next region as soon as it is not ready."""
    closed: set[str] = set()

    def targets() -> list:
        at = stage.random.randrange(len(stage.routers))
        chosen = stage.targets(at)()
        return [target for target in chosen if target.name not in closed]

    load = stage.load(rate=3, max_tokens=500, stream_share=1, targets=targets)
    stage.rest(6)
    for router in stage.routers:
        stage.note(f"SIGTERM {router.name}")
        closed.add(router.name)
        # Requests that were on their way when it was told are its business too.
        stage.rest(0.3)
        code = router.terminate()
        stage.figure(f"exit code of {router.name}", "killed" if code is None else code, "", "0", code == 0)
        router.start()
        closed.discard(router.name)
        stage.converged()
    load.end()
    cut = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("streams cut by draining", len(cut), 0)


SCENARIO = Scenario(
    what="Every router is told to end (SIGTERM) in turn while clients read streams of 5 s, and comes back.",
    expected="It takes no new request and ends every stream it has.",
    bound="0 streams cut, exit code 0",
    run=run,
)
