"""The provider fails; the fleet leaves it."""

from __future__ import annotations

import time

from lab.stage import Scenario, Stage


def external_first(settings: dict, _index: int) -> None:
    """The provider is the first choice."""
    settings["router"]["routingStrategy"] = "external_first"


def run(stage: Stage) -> None:
    """Every request at the provider fails with 500; when does the last router stop asking?"""
    load = stage.load(rate=30)
    stage.rest(4)
    paid = stage.fleet.mock("paid")
    stage.note("the provider fails")
    began = time.monotonic()
    paid.faults({"action": {"status": {"code": 500}}})
    last, seen, trials = began, paid.books()["received"], 0
    while time.monotonic() - began < 12:
        time.sleep(0.05)
        received = paid.books()["received"]
        if received > seen:
            now = time.monotonic()
            # After a second of silence what still comes is the trial of a half-open breaker.
            if now - last > 1 and last > began:
                trials += received - seen
            else:
                last = now
            seen = received
    paid.faults()
    stage.note("over")
    stage.at_most("fleet off the provider", last - began, 2, "s")
    stage.figure("trials in the 12 s of the outage", trials)
    stage.rest(14)
    load.end()
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors", 100 * len(failed) / max(1, len(stage.attempts())), 0, "%")
    again = [a for a in stage.attempts() if a.backend == "paid" and a.started > stage.notes[-1][0]]
    stage.at_least("answers by the provider after the outage", len(again), 1)


SCENARIO = Scenario(
    what="The first choice, a provider, answers 500 to everything for 12 s.",
    expected="The whole fleet leaves it within two seconds, tries it by single trials and comes back.",
    bound="fleet off it ≤ 2 s, 0 errors",
    run=run,
    shape={"change": external_first},
)
