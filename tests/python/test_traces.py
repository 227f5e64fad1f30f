"""Traces as a receiver nobody here wrote reads them: rotel, over both protocols and across two routers."""

from __future__ import annotations

import http.server
import importlib.util
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import settings
import stage
import yaml
from binary import Service, command
from process import Process, free_port
from router import chat_body
from settings import PROVIDER_KEY
from waiting import eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT_SPAN = "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01", "tracestate": "vendor=of-the-client"}
SECRET = "what-the-client-wrote"
# What rotel calls the parts of a span.
FIELDS = {
    "Trace ID": "trace",
    "Parent ID": "parent",
    "ID": "id",
    "Name": "name",
    "Kind": "kind",
    "Status code": "status",
}
EXPORTED_WITHIN = 15.0
GOSSIP_WITHIN = 20.0


@dataclass
class Span:
    """One span as rotel printed it."""

    trace: str = ""
    parent: str = ""
    id: str = ""
    name: str = ""
    kind: str = ""
    status: str = ""
    service: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)


class Receiver(Process):
    """A rotel agent that prints every span it takes."""

    def __init__(self, log: Path) -> None:
        agent = Path(importlib.util.find_spec("rotel").origin).parent / "rotel-agent"
        self.grpc, self.http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        arguments = ["start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"]
        addresses = ["--otlp-grpc-endpoint", self.grpc, "--otlp-http-endpoint", self.http]
        super().__init__("rotel", [str(agent), *arguments, *addresses], log)

    def spans(self) -> list[Span]:
        """Every span printed so far."""
        spans: list[Span] = []
        service = ""
        for line in self.output().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if line.startswith("Span #"):
                spans.append(Span(service=service))
            elif attribute := re.match(r"^ {5}-> ([\w.]+): \w+\((.*)\)$", line):
                if attribute[1] == "service.name":
                    service = attribute[2]
                elif spans:
                    spans[-1].attributes[attribute[1]] = attribute[2]
            elif spans and line.startswith("     -> Name"):
                spans[-1].events.append(line.rsplit(" ", 1)[-1])
            elif spans and key in FIELDS:
                setattr(spans[-1], FIELDS[key], value)
        return spans

    def trace(self, least: int) -> list[Span]:
        """The spans of the client's trace, once there are so many."""

        def found() -> list[Span]:
            spans = [span for span in self.spans() if span.trace == TRACE]
            return spans if len(spans) >= least else []

        return eventually(found, EXPORTED_WITHIN, f"{least} spans of the client's trace")


@pytest.fixture
def receiver(crew) -> Receiver:
    rotel = Receiver(crew.log("rotel"))
    crew.add(rotel)
    rotel.start()
    rotel.wait_until(lambda: "Starting Rotel" in rotel.output(), 10, "starts")
    return rotel


def telemetry(receiver: Receiver, protocol: str) -> dict:
    """The section of a node that sends its spans there."""
    address = receiver.grpc if protocol == "grpc" else receiver.http
    traces = {"endpoint": f"http://{address}", "protocol": protocol, "serviceName": "the-router"}
    return {"logFormat": "json", "traces": traces}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_fallback_is_one_trace_with_both_attempts(crew, receiver, protocol) -> None:
    failing = stage.mock(crew, "llama", model="tiny")
    paid = stage.mock(crew, "openai", model="tiny")
    file = settings.node(
        clusters=[settings.cluster("own", failing.url, "tiny")],
        providers=[settings.provider("paid", paid.url, "tiny")],
    )
    router = stage.router(crew, {**file, "telemetry": telemetry(receiver, protocol)})
    eventually(lambda: router.view()["backends"][0]["own"]["health"] == "healthy", 15, "the cluster is healthy")
    failing.kill()

    answer = router.chat("chat", headers=PARENT, user=SECRET)
    assert (answer.status_code, answer.headers["x-llm-router-backend"]) == (200, "paid")
    decision = answer.headers["x-llm-router-decision"]

    spans = receiver.trace(4)
    assert {span.service for span in spans} == {"the-router"}
    request = next(span for span in spans if span.name == "POST /v1/chat/completions")
    assert (request.parent, request.kind) == (CLIENT_SPAN, "SPAN_KIND_SERVER")
    assert request.attributes["llm_router.decision.id"] == decision
    plan = next(span for span in spans if span.name == "plan")
    assert plan.parent == request.id
    assert plan.events.count("candidate") == 2
    own, bought = (span for span in spans if span.name == "chat tiny")
    assert own.parent == bought.parent == request.id
    assert own.kind == bought.kind == "SPAN_KIND_CLIENT"
    assert (own.attributes["llm_router.backend"], own.attributes["error.type"]) == ("own", "connect")
    assert own.status == "STATUS_CODE_ERROR"
    assert "error.type" not in bought.attributes
    assert bought.attributes["gen_ai.provider.name"] == "openai"
    assert bought.attributes["gen_ai.response.model"] == "tiny"
    assert int(bought.attributes["gen_ai.usage.output_tokens"]) > 0
    assert bought.attributes["server.port"] == str(paid.port)

    printed = receiver.output()
    assert SECRET not in printed and PROVIDER_KEY not in printed
    # The lines of the log lead to the trace and to the decision.
    line = next(line for line in router.output().splitlines() if '"attempt failed"' in line)
    assert f'"trace_id":"{TRACE}"' in line and f'"decision":"{decision}"' in line


def test_a_request_through_another_regions_router_is_one_trace(crew, receiver, tmp_path) -> None:
    upstream = stage.mock(crew, "llama", model="tiny")
    ca = tmp_path / "ca"
    assert command("certs", "init", "--dir", str(ca), "--cluster-id", "fleet").returncode == 0
    files = []
    for name, gossip in zip(["router-a", "router-b"], settings.gossiping(2), strict=True):
        folder = tmp_path / name
        issued = command("certs", "issue", "--dir", str(ca), "--node", name, "--out", str(folder))
        assert issued.returncode == 0, issued.stderr
        identity = {"cert": f"{folder}/{name}.pem", "key": f"{folder}/{name}.key", "ca": f"{folder}/ca.pem"}
        gossip |= {"clusterId": "fleet", "identity": identity, "relay": {"listen": f"127.0.0.1:{free_port()}"}}
        # Only the region of the second router reaches it.
        private = settings.cluster("private", upstream.url, "tiny", reachedFrom=["region-b"])
        file = settings.node(name, region=f"region-{name[-1]}", clusters=[private], gossip=gossip)
        protocol = "grpc" if name == "router-a" else "http/protobuf"
        files.append({**file, "telemetry": telemetry(receiver, protocol)})
    _, near = stage.routers(crew, files[::-1])

    def answered() -> bool:
        answer = near.chat("chat", headers=PARENT)
        return answer.status_code == 200 and answer.headers["x-llm-router-via"] == "router-b"

    eventually(answered, GOSSIP_WITHIN, "a request goes through the other router", every=0.5)

    def whole() -> list[Span]:
        """The spans from the far end's attempt back to the client's, where both ends have told theirs."""
        by_id = {span.id: span for span in receiver.spans() if span.trace == TRACE}
        way = [span for span in by_id.values() if span.name == "relayed tiny"][:1]
        while way and way[-1].parent in by_id:
            way.append(by_id[way[-1].parent])
        return way if len(way) == 4 else []

    far, taken, attempt, request = eventually(whole, EXPORTED_WITHIN, "one way from the far end to the client")
    assert (taken.name, taken.kind) == ("POST /relay/v1/{backend}", "SPAN_KIND_SERVER")
    assert (attempt.name, attempt.kind) == ("chat tiny", "SPAN_KIND_CLIENT")
    assert attempt.attributes["llm_router.via"] == "router-b"
    assert (request.name, request.parent) == ("POST /v1/chat/completions", CLIENT_SPAN)
    nodes = [span.attributes["llm_router.node"] for span in (taken, request)]
    assert nodes == ["router-b", "router-a"]
    assert far.attributes["server.port"] == str(upstream.port)
    # Both ends tell the same decision.
    assert taken.attributes["llm_router.decision.id"] == request.attributes["llm_router.decision.id"]


def test_cache_ledger_and_shadow_copy_are_told_of_where_they_belong(crew, receiver, tmp_path) -> None:
    paid = stage.mock(crew, "openai", model="tiny")
    other = stage.mock(crew, "openai", model="next")
    file = settings.node(
        providers=[
            settings.provider("paid", paid.url, "tiny"),
            settings.provider(
                "other", other.url, "next", models=[{"name": "next", "price": {"input": 1.0, "output": 1.0}}]
            ),
        ]
    )
    shadow = {"name": "trial", "share": 1.0, "backend": "other", "model": "next", "maxSpendShare": 1000.0}
    more = {"cache": {}, "ledger": {"path": str(tmp_path / "ledger.sqlite")}, "shadows": [shadow]}
    router = stage.router(crew, {**file, **more, "telemetry": telemetry(receiver, "grpc")})

    # A copy is measured against what clients have spent: until the first is booked there is none.
    def copied() -> bool:
        router.chat("tiny", temperature=0, user=SECRET, headers={"x-llm-router-cache": "off"})
        return any(span.name == "shadow copy" for span in receiver.spans())

    eventually(copied, EXPORTED_WITHIN, "a shadow copy is told of", every=0.5)
    words = [router.chat("tiny", temperature=0, headers=PARENT).headers["x-llm-router-cache"] for _ in range(2)]
    assert words == ["miss", "hit"]

    def both() -> list[Span]:
        spans = [span for span in receiver.spans() if span.trace == TRACE]
        return spans if sum(span.name.startswith("POST ") for span in spans) == 2 else []

    spans = eventually(both, EXPORTED_WITHIN, "both requests are told of")
    requests = [span for span in spans if span.name.startswith("POST ")]
    trees = {}
    for request in requests:
        assert request.parent == CLIENT_SPAN
        children = [span for span in spans if span.parent == request.id]
        word = next(span.attributes["llm_router.cache"] for span in children if span.name == "cache")
        trees[word] = sorted(span.name for span in children)
    assert trees == {"miss": ["cache", "chat tiny", "ledger", "plan"], "hit": ["cache"]}

    everything = receiver.spans()
    copy = next(span for span in everything if span.name == "shadow copy")
    assert (copy.kind, copy.attributes["llm_router.shadow"]) == ("SPAN_KIND_INTERNAL", "trial")
    within = {span.name: span for span in everything if span.parent == copy.id and span.trace == copy.trace}
    assert within.keys() == {"plan", "chat next"}
    assert within["chat next"].attributes["server.port"] == str(other.port)
    copied_from = copy.attributes["llm_router.shadow_of"]
    original = [span for span in everything if span.attributes.get("llm_router.decision.id") == copied_from]
    assert original and all(span.trace != copy.trace for span in original)
    assert SECRET not in receiver.output()


class Terminator:
    """TLS in front of a receiver, as a service mesh or a load balancer would end it; counts what it reads."""

    def __init__(self, folder: Path, behind: str, protocol: str) -> None:
        self.bytes, self.refused = 0, 0
        self._behind = behind
        self.certificate = certificate(folder)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*self.certificate)
        self._context.set_alpn_protocols(["h2"] if protocol == "grpc" else ["http/1.1"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            client = self._context.wrap_socket(plain, server_side=True)
        except (ssl.SSLError, OSError):
            self.refused += 1
            return
        host, port = self._behind.split(":")
        onward = socket.create_connection((host, int(port)))
        threading.Thread(target=self._copy, args=(onward, client), daemon=True).start()
        self._copy(client, onward, count=True)

    def _copy(self, source: socket.socket, target: socket.socket, count: bool = False) -> None:
        try:
            while data := source.recv(65_536):
                self.bytes += len(data) if count else 0
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()

    def stop(self) -> None:
        """Takes no further connection."""
        self._listener.close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine that stands for itself, and its key."""
    files = folder / "collector.pem", folder / "collector.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-addext", "basicConstraints=critical,CA:FALSE", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return files


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_spans_go_to_a_collector_behind_tls_packed_where_that_is_asked_for(crew, receiver, tmp_path, protocol) -> None:
    terminator = Terminator(tmp_path, receiver.grpc if protocol == "grpc" else receiver.http, protocol)
    upstream = stage.mock(crew, "llama", model="tiny")
    sent = {}
    for name, more in [
        ("plain", {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(terminator.certificate[0])}),
        (
            "packed",
            {
                "OTEL_EXPORTER_OTLP_CERTIFICATE": str(terminator.certificate[0]),
                "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            },
        ),
        ("stranger", {}),
    ]:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://localhost:{terminator.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_SERVICE_NAME": name,
            **more,
        }
        file = settings.node(name, clusters=[settings.cluster("own", upstream.url, "tiny")])
        before = terminator.bytes
        router = stage.router(crew, file, variables)
        for _ in range(20):
            assert router.chat("chat").status_code == 200
        if name == "stranger":
            # Nobody vouches for the collector here: nothing is sent, and what is lost is counted.
            def lost(router=router):
                return router.metric("llm_router_spans_dropped_total", why="not_taken")

            eventually(lambda: lost() and terminator.refused > 0, EXPORTED_WITHIN, "the spans are counted as lost")
            assert terminator.bytes == before
            assert router.metric("llm_router_spans_exported_total") == 0
        else:

            def exported(router=router):
                return router.metric("llm_router_spans_exported_total") == 60

            eventually(exported, EXPORTED_WITHIN, "all spans are taken")
            sent[name] = terminator.bytes - before
            told = {span.name for span in receiver.spans() if span.service == name}
            assert told == {"POST /v1/chat/completions", "plan", "chat tiny"}
        router.stop()
    assert sent["packed"] < sent["plain"] / 3, sent
    terminator.stop()


def test_a_file_for_tls_that_cannot_be_read_is_named_at_the_start(crew, tmp_path) -> None:
    upstream = stage.mock(crew, "llama", model="tiny")
    file = tmp_path / "router.yaml"
    file.write_text(yaml.safe_dump(settings.node(clusters=[settings.cluster("own", upstream.url, "tiny")])))
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://localhost:1", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such.pem"}
    serving = Service("router", ["serve", "--config", str(file)], crew.log("router"), variables)
    crew.add(serving)
    serving.start()
    assert serving.wait(20) == 1
    assert "/no/such.pem" in serving.output() and "TLS towards the collector" in serving.output()


def test_a_collector_that_takes_its_time_makes_no_request_wait_and_no_memory_grow(crew) -> None:
    """Each batch is taken after a second; many times more spans are made than it can take."""
    taken = []

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            time.sleep(1)
            taken.append(1)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    upstream = stage.mock(crew, "llama", model="tiny")
    traces = {"endpoint": f"http://127.0.0.1:{collector.server_port}", "queueSpans": 256}
    file = settings.node(clusters=[settings.cluster("own", upstream.url, "tiny")], maxQueueDepth=100)
    router = stage.router(crew, {**file, "telemetry": {"traces": traces}})

    slowest = 0.0
    with httpx.Client(base_url=router.url, timeout=20) as client:

        def ask(count: int) -> None:
            nonlocal slowest
            for _ in range(count):
                answer = client.post("/v1/chat/completions", json=chat_body("chat", max_tokens=1))
                assert answer.status_code == 200
                slowest = max(slowest, answer.elapsed.total_seconds())

        def resident() -> float:
            return router.metric("process_resident_memory_bytes") / 2**20

        ask(400)
        before = resident()
        ask(1200)
        assert router.metric("llm_router_spans_waiting") <= 256
        grown = resident() - before
    assert taken, "it is slow, not gone"
    made = 3 * 1600

    def lost():
        return router.metric("llm_router_spans_dropped_total")

    eventually(lambda: lost() + router.metric("llm_router_spans_exported_total") == made, 30, "every span is counted")
    assert lost() > 1000
    # Their 3600 spans would take more than 8 MiB.
    assert grown < 6, f"{grown:.1f} MiB"
    assert slowest < 1, f"one request took {slowest:.1f} s"
    collector.shutdown()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_wrong_with_the_figures(crew) -> None:
    upstream = stage.mock(crew, "llama", model="tiny")
    router = stage.router(crew, settings.node(clusters=[settings.cluster("own", upstream.url, "tiny")]))
    assert router.chat("chat").status_code == 200
    figures = router.get("/metrics").content
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=figures, capture_output=True, timeout=30, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert not checked.stderr, checked.stderr
