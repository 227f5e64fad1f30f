"""Budgets and rate limits that three real routers share over real gossip, against the upstream's own books."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
import settings
import stage
from settings import ADMIN_TOKEN
from waiting import eventually

KEY = "a-key-of-the-quota-tests"
NAMES = ["n0", "n1", "n2"]
INPUT_USD, OUTPUT_USD = 10e-6, 30e-6
BUDGET_USD = 0.3
RPM = 600


class Load(threading.Thread):
    """One client of one router, asking without a pause until told to end; notes when each answer came."""

    def __init__(self, router) -> None:
        super().__init__(daemon=True)
        self.router = router
        self.served: list[float] = []
        self.refused: list[float] = []
        self.other: list[str] = []
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        """Asks until told to end."""
        body = {"model": "m", "max_tokens": 12, "messages": [{"role": "user", "content": "Say something"}]}
        with httpx.Client(base_url=self.router.url, headers={"authorization": f"Bearer {KEY}"}, timeout=20) as client:
            while not self._over.is_set():
                try:
                    answer = client.post("/v1/chat/completions", json=body)
                except httpx.TransportError:
                    # Its router was killed.
                    self._over.wait(0.2)
                    continue
                if answer.status_code == 200:
                    self.served.append(time.monotonic())
                elif answer.status_code == 429 and answer.headers.get("retry-after"):
                    self.refused.append(time.monotonic())
                    self._over.wait(0.05)
                else:
                    self.other.append(f"{answer.status_code} {answer.text}")

    def end(self) -> Load:
        """Finishes the request under way and ends."""
        self._over.set()
        self.join(30)
        return self


def fleet(crew, tmp_path, upstream, key: dict) -> list:
    """Three routers that know each other, with one key."""
    files = []
    for name, gossip in zip(NAMES, settings.gossiping(3), strict=True):
        paid = settings.provider("paid", upstream.url, "m")
        paid["models"] = [{"name": "m", "price": {"input": INPUT_USD * 1e6, "output": OUTPUT_USD * 1e6}}]
        file = settings.node(name, providers=[paid], gossip=gossip)
        file["auth"] = {"keys": [{"id": "k", "tenant": "team", "key": KEY, **key}], "openMetrics": True}
        file["quota"] = {"nodes": NAMES, "stateFile": str(tmp_path / f"{name}.json")}
        files.append(file)
    routers = stage.routers(crew, files)
    for router in routers:
        eventually(lambda router=router: shared(router), 20, f"{router.name} shares with the other two")
    return routers


def limits(router) -> dict:
    """How budgets and limits stand there."""
    bearer = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    return httpx.get(f"{router.admin_url}/admin/limits", headers=bearer, timeout=10).raise_for_status().json()


def shared(router) -> bool:
    """Whether three share, all of them heard, and it may spend."""
    told = limits(router)
    may = all(budget["here"]["allowed_usd"] > 0 for budget in told["budgets"])
    return told["nodes"] == len(NAMES) and not told["split"] and may


def charged(upstream) -> float:
    """What the upstream would bill: what it completed, and what it had produced of the rest."""
    books = upstream.books()
    tokens = [books[f"{part}{kind}_tokens"] for kind in ("input", "output") for part in ("", "unfinished_")]
    return sum(tokens[:2]) * INPUT_USD + sum(tokens[2:]) * OUTPUT_USD


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_a_budget_of_three_routers_is_kept_while_one_of_them_is_killed(crew, tmp_path, mode):
    upstream = stage.mock(crew, "openai", model="m", slots=64)
    routers = fleet(crew, tmp_path, upstream, {"budget": {"usd": BUDGET_USD, "mode": mode}})

    def bound() -> float:
        stated = [router.metric("llm_router_budget_overshoot_bound_usd", scope="key:k") for router in routers[:2]]
        return max(value or 0.0 for value in stated)

    bounds = [bound()]
    loads = [Load(router) for router in routers for _ in range(2)]
    eventually(lambda: charged(upstream) > BUDGET_USD / 4, 60, "a quarter of it is spent")
    bounds.append(bound())
    routers[2].kill()

    def used_up() -> bool:
        bounds.append(bound())
        now = time.monotonic()
        living = loads[:4]
        quiet = not any(at > now - 3 for load in living for at in load.served)
        return quiet and all(any(at > now - 3 for at in load.refused) for load in living)

    eventually(used_up, 90, "nothing is left to the two that live")
    for load in loads:
        load.end()
    spent = charged(upstream)
    print(f"{mode}: ${spent:.4f} of ${BUDGET_USD} spent, stated bound ${max(bounds):.4f}")
    assert [load.other for load in loads if load.other] == []
    if mode == "hard":
        assert spent <= BUDGET_USD
    else:
        assert max(bounds) > 0, "a soft budget states its bound"
        assert spent <= BUDGET_USD + max(bounds)
        assert spent <= BUDGET_USD * 1.05
    assert spent >= BUDGET_USD / 2, "what the dead router had claimed is lost to the others, and no more"


def test_six_hundred_a_minute_go_to_the_router_that_is_asked_and_to_the_next_one_after_it(crew, tmp_path):
    upstream = stage.mock(crew, "openai", model="m", slots=64, tokens_per_second=20_000)
    routers = fleet(crew, tmp_path, upstream, {"limits": {"requestsPerMinute": RPM}})
    first = [Load(routers[0]) for _ in range(4)]
    eventually(lambda: sum(len(load.served) for load in first) >= RPM * 0.95, 50, "one router alone has nearly all")
    second = [Load(routers[1]) for _ in range(4)]
    # A second look at the first one: what it may have while another asks too.
    for load in first:
        load.end()
    began = min(at for load in first for at in load.served)
    eventually(lambda: sum(len(load.served) for load in second) >= RPM * 0.95, 100, "then the other one has it")
    loads = first + [load.end() for load in second]
    assert [load.other for load in loads if load.other] == []
    at = sorted(at for load in loads for at in load.served)
    # Half a second less than a minute, since an answer comes a moment after its place was taken.
    most = max(sum(1 for other in at if one <= other < one + 59.5) for one in at)
    print(f"{len(at)} served in {at[-1] - began:.0f} s, at most {most} within a minute")
    assert most <= RPM
    assert sum(len(load.refused) for load in loads) > 0
