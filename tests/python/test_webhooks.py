"""Webhooks of the binary: a receiver written from the manual alone verifies what it gets, against the schema."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonschema
import pytest
import settings
import stage
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
