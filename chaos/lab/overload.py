"""More requests than the backends can serve: what scenarios of that kind share."""

from __future__ import annotations

from lab.load import ANSWERED
from lab.stage import Scenario, Stage, percentile

# As many slots as routers: each has a whole number of them.
SLOTS, TOKENS, TTFT_MS, TOKENS_PER_SECOND = 3, 16, 100, 20
SECONDS = 20


def _short_queue(settings: dict, _index: int) -> None:
    """A service that would rather refuse than be late."""
    settings["router"]["maxQueueDepth"] = 0


def _run(stage: Stage, times: int) -> None:
    """A third of the capacity first, then so many times it."""
    clusters = [mock for mock in stage.fleet.mocks if mock.kind == "llama"]
    capacity = len(clusters) * SLOTS / (TTFT_MS / 1000 + TOKENS / TOKENS_PER_SECOND)
    calm = stage.load(rate=capacity / 3, max_tokens=TOKENS, stream_share=1)
    stage.rest(10)
    calm.end()
    # What a place really serves: one request after another, each as long as it takes alone.
    alone = percentile([r.last.ended_at - r.last.started for r in calm.requests if r.last.outcome == ANSWERED], 50)
    capacity = len(clusters) * SLOTS / alone
    unloaded = percentile([r.last.ttft for r in calm.requests if r.last.ttft], 99)
    stage.note(f"{times} times the capacity")
    load = stage.load(rate=capacity * times, max_tokens=TOKENS, stream_share=1)
    stage.rest(SECONDS)
    requests = load.end()
    began = requests[0].last.started
    good = [r.last for r in requests if r.last.outcome == ANSWERED]
    in_time = [a for a in good if began + 2 <= a.ended_at <= began + SECONDS]
    stage.figure("capacity", round(capacity, 1), "requests/s")
    stage.figure("asked", round(len(requests) / SECONDS, 1), "requests/s")
    stage.at_least("goodput against capacity", len(in_time) / (SECONDS - 2) / capacity, 0.9, "times")
    stage.figure("TTFT p99 unloaded", round(unloaded, 3), "s")
    loaded = percentile([a.ttft for a in good if a.ttft], 99)
    stage.at_most("TTFT p99 of what was admitted, against unloaded", loaded / max(unloaded, 0.001), 2, "times")
    queued = max(mock.books()["peak_queued"] for mock in clusters)
    stage.figure("most requests that ever waited at a backend, beyond its slots", queued)
    waits = [
        router.metric("llm_router_queue_wait_seconds_sum")
        / max(1, router.metric("llm_router_queue_wait_seconds_count"))
        for router in stage.routers
    ]
    stage.figure("mean wait for a place in the routers", round(max(waits), 3), "s")
    refused = [r.last for r in requests if r.last.outcome != ANSWERED]
    middle = percentile([a.ttft for a in good if a.ttft], 50)
    stage.figure("TTFT median of what was admitted", round(middle, 3), "s")
    late = percentile([a.ended_at - a.started for a in refused], 99)
    stage.figure("time to a refusal, p99", round(late, 3), "s")
    kinds = sorted({f"{a.status} {a.error}" for a in refused})
    stage.figure("refusals", ", ".join(kinds)[:200] or "none")


def overload(times: int) -> Scenario:
    """The scenario in which so many times the capacity is asked for."""
    return Scenario(
        what=f"{times} times the requests that six clusters of three slots can serve; `maxQueueDepth: 0`.",
        expected="What is admitted is served as fast as ever, the rest refused at once with a typed error "
        "and Retry-After.",
        bound="goodput ≥ 90 % of capacity, admitted TTFT p99 ≤ 2 times unloaded",
        run=lambda stage: _run(stage, times),
        shape={
            "provider": None,
            "cluster": {"slots": SLOTS, "ttft_ms": TTFT_MS, "tokens_per_second": TOKENS_PER_SECOND},
            "change": _short_queue,
        },
    )
