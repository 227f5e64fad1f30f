"""Secrets and prompts that are looked for in everything a fleet lets out: logs, metrics, errors, pages, records,
webhooks, spans and gossip."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import canary
import httpx
import pytest
import settings
import stage
from process import free_port
from waiting import eventually

WORDS = {
    what: f"canary-{what}-7d41f9c2e8"
    for what in ("clientkey", "providerkey", "hmacsecret", "webhooksecret", "admintoken", "prompt", "toolargument")
}


class Sink:
    """Takes every HTTP request and keeps its bytes: an endpoint of webhooks, and a collector of spans."""

    def __init__(self) -> None:
        self.heard = bytearray()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sink.heard += str(self.headers).encode() + self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Eavesdropper:
    """A seed of the gossip that only listens: plain UDP is spoken on loopback."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            self.heard += self.socket.recv(65_536)


@pytest.fixture
def sinks():
    return {"webhooks": Sink(), "spans": Sink()}


def test_no_secret_and_no_prompt_leaves_where_it_belongs(crew, sinks):
    upstream = stage.mock(crew, "openai")
    llama = stage.mock(crew, "llama")
    beside = free_port()
    stage.sidecar(
        crew,
        {"listen": f"127.0.0.1:{beside}", "upstream": llama.url, "costPerHour": 0.1, "name": "c1"}
        | {"sharedSecret": WORDS["hmacsecret"]},
    )
    ear = Eavesdropper()
    cluster = settings.cluster("c1", f"http://127.0.0.1:{beside}", "mock-model")
    cluster |= {"authType": "hmac_v2", "sharedSecret": WORDS["hmacsecret"]}
    # The mock wants another key, so one provider serves and one is refused with its key in hand.
    bad = settings.provider("refused", upstream.url) | {"apiKey": WORDS["providerkey"]}
    file = settings.node(
        "canary",
        clusters=[cluster],
        providers=[settings.provider("good", upstream.url), bad],
        gossip={"listen": f"127.0.0.1:{free_port()}", "seeds": [ear.address]},
    )
    file["admin"]["token"] = WORDS["admintoken"]
    file["tenants"] = [{"name": "t1"}]
    file["auth"] = {"keys": [{"id": "k1", "tenant": "t1", "key": WORDS["clientkey"]}]}
    file["webhooks"] = [{"name": "w", "url": f"{sinks['webhooks'].url}/", "secret": WORDS["webhooksecret"]}]
    file["webhooks"][0]["events"] = ["decision", "backend"]
    file["telemetry"] = {
        "traces": {"endpoint": sinks["spans"].url, "protocol": "http/protobuf", "sampler": "always_on"},
    }
    stage.router(crew, file)
    url = f"http://127.0.0.1:{file['server']['port']}"
    admin = f"http://{file['admin']['listen']}"
    told: dict[str, bytes] = {}

    def ask(name: str, body: object, key: str = WORDS["clientkey"], path: str = "/v1/chat/completions", **headers):
        sent = {"authorization": f"Bearer {key}", **headers}
        content = {"content": body} if isinstance(body, (str, bytes)) else {"json": body}
        answer = httpx.post(f"{url}{path}", headers=sent, timeout=20, **content)
        # The answer's own words may repeat the prompt to who asked; headers and refusals may not.
        told[f"headers of {name}"] = str(answer.headers).encode()
        if answer.status_code >= 400:
            told[f"refusal of {name}"] = answer.content
        return answer

    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": f'{{"a":"{WORDS["toolargument"]}"}}'}}
    messages = [
        {"role": "user", "content": WORDS["prompt"]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": WORDS["prompt"]},
    ]
    good = {"model": "chat", "messages": messages}
    assert ask("an answer of the cluster", good, **{"x-llm-router-backend": "c1"}).status_code == 200
    assert ask("an answer of the provider", good, **{"x-llm-router-backend": "good"}).status_code == 200
    assert ask("a stream", {**good, "stream": True}).status_code == 200
    assert ask("a refused provider", good, **{"x-llm-router-backend": "refused"}).status_code >= 400
    assert ask("an unknown key", good, key=WORDS["clientkey"] + "x").status_code == 401
    assert ask("a broken body", f'{{"model": "chat", "messages": "{WORDS["prompt"]}"').status_code == 400
    assert ask("a wrong type", {"model": "chat", "messages": WORDS["prompt"]}).status_code >= 400
    assert ask("a wrong body for Anthropic", {"messages": WORDS["prompt"]}, path="/v1/messages").status_code >= 400
    for path in ("/metrics", "/admin/view", "/admin/decisions", "/admin/spend", "/admin/limits"):
        answer = httpx.get(f"{admin}{path}", headers={"authorization": f"Bearer {WORDS['admintoken']}"})
        assert answer.status_code == 200, path
        told[path] = answer.content
    told["/admin/view without a token"] = httpx.get(f"{admin}/admin/view").content
    for path in ("/", "/health", "/metrics", "/v1/models"):
        told[f"public {path}"] = httpx.get(f"{url}{path}").content
    told["the page's data"] = httpx.get(
        f"{url}/ui/data", headers={"authorization": f"Bearer {WORDS['admintoken']}"}
    ).content
    told["the sidecar's metrics"] = httpx.get(f"http://127.0.0.1:{beside}/metrics").content
    eventually(lambda: len(ear.heard) > 100, 10, "gossip was heard")
    eventually(lambda: b"decision" in sinks["webhooks"].heard, 10, "a decision was told")
    eventually(lambda: len(sinks["spans"].heard) > 1000, 15, "spans were sent")
    for name, sink in sinks.items():
        told[name] = bytes(sink.heard)
    told["gossip"] = bytes(ear.heard)
    for process in crew.processes:
        if process.name != "mock-openai":
            told[f"output of {process.name}"] = process.output().encode()
    assert canary.found(told, WORDS.values()) == []


def test_the_search_finds_what_is_hidden_in_the_usual_ways():
    secret = WORDS["providerkey"]
    for written in canary.forms(secret):
        assert canary.found({"x": b"before " + written + b" after"}, [secret])
    assert canary.found({"x": b"nothing"}, [secret]) == []
