"""Traces as a receiver nobody here wrote reads them: rotel, over both protocols and across two routers."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import settings
import stage
from binary import command
from process import Process, free_port
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
