"""Everything at once, by seed."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """Three hands that each draw a fault, hold it for a while and take it back, until the time is over."""
    if stage.ground.kind == "namespaces":
        stage.far()
    load = stage.load(rate=15, retry_elsewhere=True)
    long = stage.load(rate=1, max_tokens=300, stream_share=1, retry_elsewhere=True)
    until = time.monotonic() + 60 * stage.minutes(1)
    victims = threading.Lock()
    hands = [
        threading.Thread(target=hand, args=(stage, random.Random(stage.options.seed * 10 + n), until, victims))
        for n in range(3)
    ]
    for thread in hands:
        thread.start()
    for thread in hands:
        thread.join()
    stage.note("all is well again")
    stage.at_most("views equal after the last fault", stage.converged(30), 5, "s")
    stage.rest(4)
    load.end()
    long.end()
    served = sum(request.served for request in stage.requests())
    stage.figure("requests served in spite of all", round(100 * served / max(1, len(stage.requests())), 2), "%")


def hand(stage: Stage, draw: random.Random, until: float, victims: threading.Lock) -> None:
    """One fault after the other."""
    while time.monotonic() < until:
        fault = draw.choice(FAULTS)
        fault(stage, draw, victims)
        time.sleep(draw.uniform(0.5, 3))


def router_dies(stage: Stage, draw: random.Random, victims: threading.Lock) -> None:
    """At most one router is away at a time: clients retry once."""
    with victims:
        router = draw.choice(stage.routers)
        index = stage.kill(router)
        time.sleep(draw.uniform(0.5, 4))
        stage.bring_back(router, index)


def router_stops(stage: Stage, draw: random.Random, victims: threading.Lock) -> None:
    """As above."""
    with victims:
        router = draw.choice(stage.routers)
        index = stage.excuse(router)
        stage.note(f"SIGSTOP {router.name}")
        router.signal(signal.SIGSTOP)
        time.sleep(draw.uniform(0.5, 5))
        router.signal(signal.SIGCONT)
        time.sleep(1)
        stage.excuse_ends(index)


def backend_fails(stage: Stage, draw: random.Random, _victims: threading.Lock) -> None:
    """One of the faults a mock knows."""
    mock = draw.choice(stage.fleet.mocks)
    action = draw.choice(
        ["hang", "unhealthy", "malformed", "disconnect", {"status": {"code": 503}}, {"cut": {"afterTokens": 4}}]
    )
    stage.note(f"{mock.name}: {action if isinstance(action, str) else next(iter(action))}")
    mock.faults({"probability": 0.5, "action": action})
    time.sleep(draw.uniform(2, 6))
    mock.faults()


def link_breaks(stage: Stage, draw: random.Random, _victims: threading.Lock) -> None:
    """One direction of one link, where there are links."""
    if stage.ground.kind != "namespaces":
        return
    one, other = draw.sample([router.place for router in stage.routers], 2)
    stage.note(f"{one} to {other} cut")
    stage.ground.link(one, other, down=True)
    time.sleep(draw.uniform(1, 8))
    stage.ground.link(one, other, down=False)


FAULTS: list[Callable[[Stage, random.Random, threading.Lock], None]] = [
    router_dies,
    router_stops,
    backend_fails,
    backend_fails,
    link_breaks,
    link_breaks,
]


SCENARIO = Scenario(
    what="Routers killed and stopped, backends failing in every way, links cut one way: three faults at a time.",
    expected="Every request is answered or ends with a typed error; the books agree; views are equal soon after.",
    bound="all invariants; views equal ≤ 5 s after the last fault",
    run=run,
)
