"""Stopping and reloading a node: no request that runs is harmed."""

from __future__ import annotations

import copy
import signal
import time

import httpx
import pytest
import settings
import stage
from settings import HEALTH_INTERVAL
from sse import DONE
from waiting import eventually

TOKENS = 60


@pytest.fixture
def slow(crew):
    """An upstream whose answer of 60 tokens takes two seconds."""
    return stage.mock(crew, "openai", tokens_per_second=30)


def test_a_node_that_is_told_to_stop_finishes_its_streams_and_takes_no_new_ones(crew, slow):
    router = stage.router(crew, settings.node(providers=[settings.provider("paid", slow.url)]))
    with router.stream("mock-model", max_tokens=TOKENS) as stream:
        stream.wait_for_text(5)
        router.signal(signal.SIGTERM)
        eventually(lambda: refuses(router), 1.5, "no new request is taken")
        assert not stream.ended, "the running stream goes on"
        answer = stream.wait_for_end()
    assert answer.error is None
    assert answer.events[-1].data == DONE
    assert router.wait(10) == 0
    assert slow.books()["requests"] == 1
    assert slow.books()["cancelled"] == 0


def refuses(router) -> bool:
    try:
        return httpx.get(f"{router.url}/readyz", timeout=2).status_code == 503
    except httpx.TransportError:
        return True


def test_a_lame_duck_is_not_ready_tells_its_peers_and_still_serves_who_comes_and_cuts_no_stream(crew):
    """As long as DNS leads clients to it, a stopping node serves them; peers and probes know at once."""
    slow = stage.mock(crew, "openai", tokens_per_second=5)
    files = [
        settings.node(name, providers=[settings.provider("paid", slow.url)], gossip=gossip)
        for name, gossip in zip(("leaving", "staying"), settings.gossiping(2), strict=True)
    ]
    files[0]["server"].update(lameDuck="2s", drainTimeout="20s")
    leaving, staying = stage.routers(crew, files)
    eventually(lambda: (staying.member("leaving") or {}).get("live"), 10, "they know each other")
    with leaving.stream("mock-model", max_tokens=TOKENS) as stream:
        stream.wait_for_text(5)
        told_at = time.monotonic()
        leaving.signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{leaving.url}/readyz", timeout=2).status_code == 503, 1, "it is not ready")
        eventually(lambda: staying.member("leaving")["leaving"], 2, "its peer knows that it leaves")
        assert leaving.chat("mock-model", max_tokens=2).status_code == 200, "who still comes is served"
        assert httpx.get(f"{leaving.url}/livez", timeout=2).status_code == 200, "nobody restarts what is leaving"
        eventually(lambda: not connects(leaving), 6, "no new connection is taken after that")
        assert time.monotonic() - told_at >= 2, "not before the time that was set"
        assert not stream.ended, "the running stream goes on"
        answer = stream.wait_for_end()
    assert answer.error is None
    assert answer.events[-1].data == DONE
    assert leaving.wait(10) == 0
    eventually(lambda: not (staying.member("leaving") or {}).get("live"), 3, "its peer knows that it is gone")
    assert slow.books()["cancelled"] == 0


def connects(router) -> bool:
    try:
        httpx.get(f"{router.url}/livez", timeout=2)
    except httpx.TransportError:
        return False
    return True


def test_an_idle_node_stops_at_once(crew):
    upstream = stage.mock(crew, "openai")
    router = stage.router(crew, settings.node(providers=[settings.provider("paid", upstream.url)]))
    # A kept-alive connection without a request is nothing to wait for.
    with httpx.Client(base_url=router.url) as client:
        assert client.get("/livez").status_code == 200
        assert router.terminate(within=5) == 0


def test_ctrl_c_stops_a_node_like_a_term_signal(crew, slow):
    router = stage.router(crew, settings.node(providers=[settings.provider("paid", slow.url)]))
    router.signal(signal.SIGINT)
    assert router.wait(5) == 0


@pytest.mark.parametrize("how", ["signal", "file change"])
def test_a_reload_brings_a_new_backend_and_harms_no_running_stream(crew, slow, how):
    router = stage.router(crew, settings.node(providers=[settings.provider("paid", slow.url)]))
    added = stage.mock(crew, "llama", model="added-model")
    with router.stream("mock-model", max_tokens=TOKENS) as stream:
        stream.wait_for_text(5)
        changed = copy.deepcopy(router.settings)
        changed["clusters"] = [settings.cluster("added", added.url, "added-model")]
        router.write_settings(changed)
        if how == "signal":
            router.signal(signal.SIGHUP)
        eventually(lambda: "added-model" in router.served_models(), 3 * HEALTH_INTERVAL + 6, "the new model is offered")
        answer = stream.wait_for_end()
    assert answer.error is None
    assert answer.events[-1].data == DONE
    assert router.chat("added-model").headers["x-llm-router-backend"] == "added"


def test_a_reload_that_removes_a_backend_lets_its_streams_end(crew, slow):
    other = stage.mock(crew, "openai", model="other-model")
    both = [settings.provider("paid", slow.url), settings.provider("other", other.url, "other-model")]
    router = stage.router(crew, settings.node(providers=both))
    with router.stream("mock-model", max_tokens=TOKENS) as stream:
        stream.wait_for_text(5)
        router.write_settings({**router.settings, "externalProviders": both[1:]})
        router.signal(signal.SIGHUP)
        eventually(lambda: "mock-model" not in router.served_models(), 5, "its model is no longer offered")
        answer = stream.wait_for_end()
    assert answer.error is None
    assert answer.events[-1].data == DONE
    assert router.chat("mock-model").status_code == 404
    assert router.chat("other-model").status_code == 200


def test_a_bad_file_changes_nothing_and_says_so(crew, slow):
    router = stage.router(crew, settings.node(providers=[settings.provider("paid", slow.url)]))
    broken = copy.deepcopy(router.settings)
    broken["router"]["routingStrategy"] = "fastest"
    broken["externalProviders"] = []
    router.write_settings(broken)
    router.signal(signal.SIGHUP)
    eventually(lambda: "routingStrategy" in router.output(), 10, "the mistake is logged with its path")
    assert router.running
    assert router.chat("mock-model").status_code == 200
