"""A thousand clients read so slowly that they hardly read."""

from __future__ import annotations

from lab.stage import Scenario, Stage

CLIENTS = 1_000


def run(stage: Stage) -> None:
    """They hold their streams; others are served beside them."""
    slow = stage.load(workers=CLIENTS, max_tokens=32, stream_share=1, read_slowly=0.5, answered_within=150)
    stage.seconds_until(lambda: slow.under_way >= CLIENTS * 0.9, 30, "they are there")
    stage.note(f"{CLIENTS} slow clients")
    brisk = stage.load(rate=10)
    stage.rest(15)
    brisk.end()
    slow.end(170)
    failed = [request.last for request in brisk.requests if request.last.outcome != "answered"]
    stage.at_most("errors of the others", len(failed), 0)
    stage.figure("streams of slow clients that ended whole", sum(r.served for r in slow.requests))


SCENARIO = Scenario(
    what="1,000 clients that read a piece every half second, and brisk ones beside them.",
    expected="The brisk ones do not notice; memory is back afterwards.",
    bound="0 errors of the brisk clients",
    run=run,
    shape={"cluster": {"slots": 256}},
)
