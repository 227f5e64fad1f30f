"""The provider refuses with 429 for a while."""

from __future__ import annotations

from lab.stage import Scenario, Stage


def external_first(settings: dict, _index: int) -> None:
    """The provider is the first choice."""
    settings["router"]["routingStrategy"] = "external_first"


def run(stage: Stage) -> None:
    """A burst of 429 with Retry-After, then none."""
    load = stage.load(rate=20)
    stage.rest(3)
    paid = stage.fleet.mock("paid")
    stage.note("429 with Retry-After 5 s")
    before = paid.books()["received"]
    paid.faults({"action": {"status": {"code": 429, "retryAfter": 5}}})
    stage.rest(1)
    early = paid.books()["received"]
    stage.rest(3)
    late = paid.books()["received"]
    paid.faults()
    stage.note("over")
    stage.rest(8)
    load.end()
    stage.figure("requests sent in the first second of the burst", early - before)
    stage.at_most("requests sent while it had asked to be left alone", late - early, 0)
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors", 100 * len(failed) / max(1, len(stage.attempts())), 0, "%")
    again = [a for a in stage.attempts() if a.backend == "paid" and a.started > stage.notes[-1][0] + 5]
    stage.at_least("answers by the provider after Retry-After", len(again), 1)


SCENARIO = Scenario(
    what="The first choice, a provider, answers 429 with Retry-After 5 s for 4 s.",
    expected="One region's 429 is every region's back-off within a gossip round; all requests fall back to clusters.",
    bound="0 errors; 0 requests to the provider from 1 s after the first 429 until Retry-After is over",
    run=run,
    shape={"change": external_first},
)
