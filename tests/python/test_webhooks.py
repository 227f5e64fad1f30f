"""Webhooks of the binary: a receiver written from the manual alone verifies what it gets, against the schema."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import jsonschema
import pytest
import settings
import stage
from mock_upstream import Mock
from waiting import eventually

SECRET = "webhook-secret-of-the-tests"
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/webhooks.schema.json").read_text())


def verify(secret: bytes, headers, body: bytes) -> bool:
    """The recipe of docs/WEBHOOKS.md."""
    timestamp = headers["x-llm-router-timestamp"]
    if abs(time.time() - int(timestamp)) > 300:
        return False
    wanted = "v1=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(wanted, headers["x-llm-router-signature"])


class Receiver:
    """Notes every event; the first `refusals` of them are answered with 500."""

    def __init__(self, refusals: int = 0) -> None:
        self.events: list[dict] = []
        self.tries: list[str] = []
        self.forged = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.forged += not verify(SECRET.encode(), self.headers, body)
                receiver.tries.append(self.headers["x-llm-router-event-id"])
                refused = len(receiver.tries) <= refusals
                if not refused:
                    receiver.events.append(json.loads(body))
                self.send_response(500 if refused else 204)
                self.end_headers()

            def log_message(self, *_args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/events"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, event: str) -> list[dict]:
        """What came of one kind."""
        return [one for one in self.events if one["event"] == event]

    def close(self) -> None:
        """Takes no more."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver():
    receiver = Receiver(refusals=2)
    yield receiver
    receiver.close()


def test_decisions_and_a_backends_end_arrive_signed_and_as_the_schema_says(crew, receiver):
    llama = stage.mock(crew, "llama", model="m")
    file = settings.node(clusters=[settings.cluster("gpu", llama.url, "m")])
    file["webhooks"] = [{"url": receiver.url, "secret": SECRET, "events": ["decision", "backend", "breaker"]}]
    router = stage.router(crew, file)
    answer = router.chat("m")
    assert answer.status_code == 200
    eventually(lambda: receiver.of("decision"), 10, "the decision arrives")
    assert receiver.of("decision")[0]["data"]["id"] == answer.headers["x-llm-router-decision"]
    assert len(receiver.tries) >= 3
    assert len(set(receiver.tries[:3])) == 1, "the same id at each try"
    llama.kill()
    for _ in range(6):
        router.chat("m")
    eventually(lambda: receiver.of("backend.down"), 15, "the backend's end arrives")
    assert receiver.of("backend.down")[0]["data"]["backend"] == "gpu"
    assert receiver.forged == 0
    for event in receiver.events:
        jsonschema.validate(event, SCHEMA, jsonschema.Draft202012Validator)
    assert "Say something" not in json.dumps(receiver.events)
    assert router.metric("llm_router_webhook_deliveries_total", endpoint="127.0.0.1", result="delivered") >= 2
    assert SECRET not in router.output()


def test_a_breaker_a_machines_end_and_a_waking_cluster_are_told_by_the_running_binary(crew):
    receiver = Receiver()
    try:
        paid = stage.mock(crew, "openai", model="m")
        machine = Mock("llama", crew.log("machine"), model="sleepy")
        crew.add(machine)
        sleeping = settings.cluster("gpu", machine.url)
        sleeping["models"] = ["sleepy"]
        sleeping["scaleToZero"] = {
            "coldStart": "30s",
            "demandWindow": "5s",
            "tokensPerSecond": 500,
            "wakeUrl": receiver.url,
            "wakeSecret": SECRET,
        }
        file = settings.node(clusters=[sleeping], providers=[settings.provider("paid", paid.url, "m")])
        file["webhooks"] = [{"url": receiver.url, "secret": SECRET}]
        router = stage.router(crew, file)

        paid.set_faults([{"match": {}, "action": {"status": {"code": 500}}}])
        eventually(lambda: router.chat("m") and receiver.of("breaker.open"), 20, "the open breaker arrives")
        opened = receiver.of("breaker.open")[0]["data"]
        assert (opened["backend"], opened["model"]) == ("paid", "m")
        paid.set_faults([])
        eventually(lambda: router.chat("m") and receiver.of("breaker.closed"), 60, "the closed breaker arrives", 0.5)

        eventually(lambda: router.backend("gpu")["warmth"]["state"] == "cold", 15, "the cluster sleeps")
        asked = threading.Thread(target=lambda: served.append(router.chat("sleepy").status_code))
        served: list[int] = []
        asked.start()
        eventually(lambda: receiver.of("wake.started"), 15, "the call for a machine arrives")
        machine.start()
        eventually(lambda: receiver.of("wake.ready"), 20, "the machine arrives")
        asked.join(30)
        assert served == [200]
        for event in ("wake.started", "wake.ready"):
            assert receiver.of(event)[0]["data"]["backend"] == "gpu"

        notice = httpx.post(
            f"{router.admin_url}/admin/backends/gpu/preempt",
            json={"in_seconds": 20},
            headers={"authorization": f"Bearer {settings.ADMIN_TOKEN}"},
        )
        assert notice.status_code == 202
        eventually(lambda: receiver.of("spot.notice"), 15, "the machine's end arrives")
        assert receiver.of("spot.notice")[0]["data"]["backend"] == "gpu"
        assert receiver.forged == 0
        for event in receiver.events:
            if "id" in event:
                jsonschema.validate(event, SCHEMA, jsonschema.Draft202012Validator)
    finally:
        receiver.close()
