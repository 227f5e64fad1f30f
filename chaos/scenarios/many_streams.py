"""Five thousand streams at once."""

from __future__ import annotations

from lab.stage import Scenario, Stage

STREAMS = 5_000


def run(stage: Stage) -> None:
    """A token a second each, for as long as it takes until all are there and ten seconds more."""
    load = stage.load(workers=STREAMS, max_tokens=40, stream_share=1)
    stage.seconds_until(lambda: load.under_way >= STREAMS, 60, "they are there", 0.2)
    stage.note(f"{STREAMS} streams")
    stage.rest(10)
    running = sum(router.metric("llm_router_backend_in_flight") for router in stage.routers)
    stage.figure("streams under way at the backends", int(running))
    grown = max(router.memory_kb() / 1024 for router in stage.routers)
    stage.figure("memory of the largest router", round(grown, 1), "MiB")
    load.end(180)
    failed = [request.last for request in load.requests if request.last.outcome != "answered"]
    stage.at_most("errors", len(failed), 0)


SCENARIO = Scenario(
    what="5,000 streams at once through three routers, a token a second each.",
    expected="All of them are served whole.",
    bound="0 errors",
    run=run,
    shape={"cluster": {"slots": 1_000, "tokens_per_second": 1}},
)
