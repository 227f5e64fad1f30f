"""Three separate `serve` processes share what they know by gossip over loopback."""

from __future__ import annotations

import threading

import pytest
import settings
import stage
from settings import HEALTH_INTERVAL
from waiting import eventually

REGIONS = {"node-aws": "us-west-2", "node-gcp": "us-central1", "node-azure": "eastus"}
# Gossip needs well under a second; a busy machine may need more.
GOSSIP_WITHIN = 3.0
# So long that within a test only the first probe of these nodes counts: the rest is gossip.
RARELY = "120s"
# phi 8 tells a dead node of this age in a few seconds.
DEATH_WITHIN = 15.0


@pytest.fixture(scope="module")
def llama(module_crew, models):
    return stage.llama(module_crew, models["tiny"], "tiny")


@pytest.fixture(scope="module")
def paid(module_crew):
    return stage.mock(module_crew, "openai")


@pytest.fixture(scope="module")
def nodes(module_crew, llama, paid):
    files = []
    for (name, region), gossip in zip(REGIONS.items(), settings.gossiping(3), strict=True):
        first = name == "node-aws"
        clusters = [settings.cluster("shared", llama.url, "tiny")]
        if first:
            clusters.append(settings.cluster("only-aws", llama.url, "tiny"))
        files.append(
            settings.node(
                name,
                region=region,
                clusters=clusters,
                providers=[settings.provider("paid", paid.url)],
                gossip=gossip,
                healthCheckInterval=f"{HEALTH_INTERVAL:g}s" if first else RARELY,
            )
        )
    return stage.routers(module_crew, files)


def facts_from(node, backend: str, peer: str) -> list[dict]:
    """What `node` heard from `peer` about a backend, configured there or not."""
    view = node.view()
    known = [fact for entry in view["backends"] if entry["name"] == backend for fact in entry["peers"]]
    foreign = [entry for entry in view["foreign"] if entry["backend"] == backend]
    return [fact for fact in known + foreign if fact["node"] == peer]


def test_every_node_sees_the_other_two_with_their_regions(nodes):
    for node in nodes:
        eventually(
            lambda node=node: {m["node"]: m["region"] for m in node.view()["members"] if m["live"]} == REGIONS,
            10,
            f"{node.name} sees three live members",
        )
        assert [m["node"] for m in node.view()["members"] if m["this_node"]] == [node.name]


def test_a_fact_of_one_node_reaches_the_others_with_its_age_and_is_never_sent_back(nodes):
    first, *others = nodes
    first.wait_for_health("shared", "healthy")
    for node in others:
        facts = eventually(
            lambda node=node: [f for f in facts_from(node, "shared", first.name) if f["health"] == "healthy"],
            HEALTH_INTERVAL + GOSSIP_WITHIN,
            f"{node.name} hears of `shared` from {first.name}",
        )
        assert len(facts) == 1
        assert facts[0]["region"] == REGIONS[first.name]
        assert 0 <= facts[0]["age_ms"] < 60_000
    assert facts_from(first, "shared", first.name) == [], "a node does not hear its own facts from its peers"


def test_a_backend_killed_behind_one_node_is_known_on_the_others(nodes, llama):
    first, *others = nodes
    first.wait_for_health("shared", "healthy")
    llama.kill()
    first.wait_for_health("shared", "unhealthy", within=3 * HEALTH_INTERVAL + 1)
    for node in others:
        for backend in ("shared", "only-aws"):
            eventually(
                lambda node=node, backend=backend: [
                    fact for fact in facts_from(node, backend, first.name) if fact["health"] == "unhealthy"
                ],
                GOSSIP_WITHIN + HEALTH_INTERVAL,
                f"{node.name} knows that `{backend}` is down",
            )

    llama.restart()
    first.wait_for_health("shared", "healthy", within=3 * HEALTH_INTERVAL + 0.5)
    for node in others:
        eventually(
            lambda node=node: [f for f in facts_from(node, "shared", first.name) if f["health"] == "healthy"],
            GOSSIP_WITHIN,
            f"{node.name} knows that `shared` is back",
        )


class Load(threading.Thread):
    """Steady requests to some nodes, one after the other, until told to end."""

    def __init__(self, nodes) -> None:
        super().__init__(daemon=True)
        self.nodes = nodes
        self.answered = 0
        self.failures: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        """Asks until told to end."""
        while not self._over.is_set():
            for node in self.nodes:
                try:
                    answer = node.chat(settings.SHARED_MODEL, max_tokens=4)
                except Exception as error:  # noqa: BLE001 - any failure counts
                    self.failures.append(f"{node.name}: {error!r}")
                    continue
                if answer.status_code == 200:
                    self.answered += 1
                else:
                    self.failures.append(f"{node.name}: {answer.status_code} {answer.text}")

    def end(self) -> None:
        """Finishes the request under way and ends."""
        self._over.set()
        self.join(30)


def test_a_killed_node_is_seen_dead_while_the_others_serve_without_an_error_and_seen_alive_after_its_return(nodes):
    first, *others = nodes
    before = others[0].member(first.name)
    load = Load(others)
    load.start()
    try:
        eventually(lambda: load.answered >= 20, 20, "the load runs")
        first.kill()
        for node in others:
            eventually(
                lambda node=node: node.member(first.name)["live"] is False,
                DEATH_WITHIN,
                f"{node.name} sees that {first.name} is dead",
            )
        answered = load.answered
        eventually(lambda: load.answered >= answered + 20, 20, "the load goes on")
    finally:
        load.end()
    assert load.failures == []

    first.start()
    for node in others:
        back = eventually(
            lambda node=node: (member := node.member(first.name))["live"] and member,
            DEATH_WITHIN,
            f"{node.name} sees that {first.name} is back",
        )
        assert back["generation"] > before["generation"]
