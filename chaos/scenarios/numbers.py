"""The figures of gossip, in a LAN and between continents."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from lab.fleet import ADMIN_TOKEN, API, CLIENT_KEY, MODEL, Router
from lab.stage import Scenario, Stage, percentile
from lab.waiting import TooLateError

CHANGES = 30
DEATHS = 4
# A node judges the silence of another by how it was heard before: it must have heard it for a while.
ACQUAINTED = 12
PARTITIONS = 3
PARTITION_LASTS = 10
IDLE = 20
LOSS_MINUTES = 30
# Facts that change are told at most five times a second.
PAUSE = 0.35


def run(stage: Stage) -> None:
    """Everything twice: 0.4 ms apart, and 150 ms apart with 5 % loss; then 20 % loss for long."""
    for mock in stage.fleet.mocks:
        mock.speed(ttftMs=1, tokensPerSecond=2)
    places = [router.place for router in stage.routers]
    for name, rtt_ms, loss, bound in (("LAN", 0.4, 0.0, 0.6), ("150 ms, 5 % loss", 150, 0.05, 1.2)):
        stage.ground.wan(places, rtt_ms=rtt_ms, loss=loss)
        stage.converged(60)
        stage.note(name)
        traffic(stage, name)
        changes(stage, name, bound)
        deaths(stage, name)
        partitions(stage, name, places)
    false_deaths(stage, places)


def traffic(stage: Stage, name: str) -> None:
    """What an idle fleet sends, as the routers count it and as it is on the wire."""

    def payload() -> float:
        return sum(router.metric("llm_router_gossip_bytes_total", direction="sent") for router in stage.routers)

    def wire() -> int:
        return sum(link["udp_bytes"] for link in stage.ground.traffic())

    started, before, wired = time.monotonic(), payload(), wire()
    time.sleep(IDLE)
    seconds = (time.monotonic() - started) * len(stage.routers) * 1000
    stage.at_most(f"{name}: gossip sent per node, payload", (payload() - before) / seconds, 40, "KB/s")
    stage.figure(f"{name}: gossip sent per node, UDP on the wire", round((wire() - wired) / seconds, 2), "KB/s")


def changes(stage: Stage, name: str, bound: float) -> None:
    """From the moment one router sees a backend busier to the moment all others have that from it."""
    seconds: list[float] = []
    whole: list[float] = []
    with ThreadPoolExecutor(len(stage.routers)) as pool:
        for number in range(CHANGES):
            router = stage.routers[number % len(stage.routers)]
            mock = stage.fleet.mocks[(number // len(stage.routers)) % len(stage.fleet.mocks)]
            held = hold_a_stream(stage, router, mock.name)
            try:
                changed = wait_for(router, mock.name, router.name)
                others = [peer for peer in stage.routers if peer is not router]
                arrived = list(pool.map(lambda peer, m=mock.name, r=router.name: wait_for(peer, m, r), others))
            finally:
                held.close()
            took = [max(0.0, at - changed) for at in arrived]
            seconds += took
            whole.append(max(took))
            time.sleep(PAUSE + 0.037 * (number % 11))
    stage.figure(f"{name}: changed backend state on another node, p50", round(percentile(seconds, 50), 3), "s")
    stage.at_most(f"{name}: changed backend state on another node, p99", percentile(seconds, 99), bound, "s")
    stage.figure(f"{name}: changed backend state on all nodes, p50", round(percentile(whole, 50), 3), "s")
    stage.at_most(f"{name}: changed backend state on all nodes, p99", percentile(whole, 99), bound, "s")


def hold_a_stream(stage: Stage, router: Router, backend: str):
    """A stream at one backend that goes on until it is closed."""
    line = stage.ground.socket(router.place)
    line.settimeout(5)
    line.connect((router.host, API))
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "go on"}], "stream": True}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {CLIENT_KEY}\r\nx-llm-router-backend: {backend}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    line.sendall(head.encode() + body)
    return line


def wait_for(router: Router, backend: str, observer: str) -> float:
    """When this router first knew that the observer has a request running there."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        view = router.view()
        entry = next(entry for entry in view["backends"] if entry["name"] == backend)
        facts = [entry["own"]] if observer == router.name else [f for f in entry["peers"] if f["node"] == observer]
        if any(fact and fact["in_flight"] > 0 for fact in facts):
            return time.monotonic()
        time.sleep(0.01)
    message = f"{router.name} does not learn what {observer} sees of {backend}"
    raise TooLateError(message)


def deaths(stage: Stage, name: str) -> None:
    """From `kill -9` to the moment the last of the others knows."""
    took = []
    for number in range(DEATHS):
        victim = stage.routers[number % len(stage.routers)]
        others = [router for router in stage.routers if router is not victim]
        index = stage.kill(victim)
        took.append(
            stage.seconds_until(lambda v=victim, o=others: all(v.name not in r.live() for r in o), 10, "dead is known")
        )
        stage.bring_back(victim, index)
        stage.converged(60)
        stage.rest(ACQUAINTED)
    stage.at_most(f"{name}: dead router known by all, worst of {DEATHS}", max(took), 2.5, "s")
    stage.figure(f"{name}: dead router known by all, median", round(percentile(took, 50), 2), "s")
    index = stage.kill(stage.routers[0])
    stage.bring_back(stage.routers[0], index)
    stage.converged(60)
    victim, *others = stage.routers[1], stage.routers[0], *stage.routers[2:]
    index = stage.kill(victim)
    young = stage.seconds_until(lambda: all(victim.name not in r.live() for r in others), 20, "dead is known")
    stage.bring_back(victim, index)
    stage.converged(60)
    stage.figure(f"{name}: dead router known by all, one of which has just started", round(young, 2), "s")


def partitions(stage: Stage, name: str, places: list[str]) -> None:
    """From the end of a partition to equal views."""
    took = []
    for number in range(PARTITIONS):
        apart = places[number % len(places)]
        for place in places:
            if place != apart:
                stage.ground.both(apart, place, down=True)
        time.sleep(PARTITION_LASTS)
        for place in places:
            if place != apart:
                stage.ground.both(apart, place, down=False)
        took.append(stage.converged(60))
    stage.at_most(f"{name}: views equal after a partition, worst of {PARTITIONS}", max(took), 2, "s")
    stage.figure(f"{name}: views equal after a partition, median", round(percentile(took, 50), 2), "s")


def false_deaths(stage: Stage, places: list[str]) -> None:
    """Who was taken for dead although nobody died, at 20 % loss, as each router's own stream of events tells it."""
    minutes = stage.minutes(LOSS_MINUTES)
    stage.ground.wan(places, rtt_ms=150, loss=0.2)
    time.sleep(5)
    dead: list[str] = []
    over = threading.Event()
    watches = [threading.Thread(target=watch, args=(stage, r, dead, over), daemon=True) for r in stage.routers]
    for thread in watches:
        thread.start()
    logged = sum(router.output().count("live=false") for router in stage.routers)
    time.sleep(minutes * 60)
    over.set()
    logged = sum(router.output().count("live=false") for router in stage.routers) - logged
    stage.at_most(f"150 ms, 20 % loss, {minutes:g} min: false deaths", max(logged, len(dead)), 0)
    stage.ground.wan(places, rtt_ms=0.4)


def watch(stage: Stage, router: Router, dead: list[str], over: threading.Event) -> None:
    """Reads `/admin/events` until told to end."""
    line = stage.ground.socket(router.place)
    line.settimeout(60)
    line.connect((router.host, 9090))
    line.sendall(f"GET /admin/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\r\n".encode())
    event = ""
    with line, line.makefile("r", errors="replace") as lines:
        while not over.is_set():
            try:
                text = lines.readline()
            except OSError:
                continue
            if text.startswith("event:"):
                event = text[6:].strip()
            elif text.startswith("data:") and event == "member":
                state = json.loads(text[5:])["state"]
                if state is None or not state["live"]:
                    dead.append(f"{router.name}: {text}")


SCENARIO = Scenario(
    what="The figures of gossip with 12 backends: in a LAN, and 150 ms apart with 5 % loss; then 20 % loss for long.",
    expected="Decision-relevant facts reach all nodes within a second, deaths are known soon, and none is false.",
    bound="state change on all nodes p99 ≤ 0.6 s (LAN), ≤ 1.2 s (150 ms, 5 % loss); dead router known ≤ 2.5 s; equal "
    "views ≤ 2 s after a partition; ≤ 40 KB/s per node; no false death in 30 min at 20 % loss",
    run=run,
    wan=True,
    memory=False,
    shape={"clusters": 4, "provider": None},
)
