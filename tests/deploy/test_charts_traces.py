"""The router's chart tells its pods where traces go, in the words that the real binary reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from charts import Case, Object, containers, of_kind, render, template
from live import Processes, eventually, free_port, get, send

TRACED = Case("router", "ci/traced.yaml")
DEFAULTS = Case("router", None)


def _pod(objects: list[Object]) -> Object:
    (workload,) = of_kind(objects, "StatefulSet")
    return workload["spec"]["template"]


def _environment(objects: list[Object]) -> dict[str, Object]:
    (container,) = containers(_pod(objects))
    return {env["name"]: env for env in container["env"]}


def test_every_variable_is_there_and_headers_come_from_a_secret(helm: Path) -> None:
    objects = render(helm, TRACED)
    given = _environment(objects)
    plain = {name: env["value"] for name, env in given.items() if name.startswith("OTEL_") and "value" in env}
    assert plain == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel-collector.observability:4317",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc/llm-router/collector/ca.crt",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.namespace.name=llm,k8s.pod.name=$(POD_NAME)",
    }
    headers = given["OTEL_EXPORTER_OTLP_HEADERS"]["valueFrom"]["secretKeyRef"]
    assert headers == {"name": "collector", "key": "headers"}
    # What a variable refers to must stand before it.
    assert list(given).index("POD_NAME") < list(given).index("OTEL_RESOURCE_ATTRIBUTES")
    (container,) = containers(_pod(objects))
    assert {"name": "collector", "mountPath": "/etc/llm-router/collector", "readOnly": True} in container[
        "volumeMounts"
    ]
    (volume,) = [one for one in _pod(objects)["spec"]["volumes"] if one["name"] == "collector"]
    assert volume["secret"]["secretName"] == "collector-authority"


def test_without_an_endpoint_nothing_is_said_of_traces(helm: Path) -> None:
    assert not [name for name in _environment(render(helm, DEFAULTS)) if name.startswith("OTEL_")]


@pytest.mark.parametrize(
    "wrong",
    [
        "tracing.endpoint=collector:4317",
        "tracing.endpoint=http://u:p@c:4317",
        "tracing.protocol=http",
        "tracing.ratio=2",
        "tracing.sampler=some",
        "tracing.headers.name=Not_A_Name",
        "tracing.unknown=1",
    ],
)
def test_what_the_binary_would_not_read_is_refused(wrong: str, helm: Path) -> None:
    run = template(helm, DEFAULTS, "--set", wrong)
    assert run.returncode != 0
    assert wrong.split("=")[0].split(".")[1] in run.stderr


def test_the_real_binary_reads_them(helm: Path, llm_router: Path, processes: Processes, tmp_path: Path) -> None:
    """Towards a collector that nobody has started: what it loses shows that it was told where it is."""
    port, collector = free_port(), free_port()
    endpoint = f"tracing.endpoint=http://127.0.0.1:{collector}"
    given = _environment(render(helm, DEFAULTS, "--set", endpoint, "--set", "tracing.ratio=1"))
    variables = {name: env["value"] for name, env in given.items() if name.startswith("OTEL_")}
    file = tmp_path / "router.yaml"
    cluster = "{name: a, endpoint: 'http://127.0.0.1:9', region: r, provider: aws, costPerHour: 1, authType: none}"
    file.write_text(f"server: {{host: 127.0.0.1, port: {port}}}\nclusters: [{cluster}]\n")
    processes.start("router", [llm_router, "serve", "--config", file], variables)
    eventually(lambda: get(port, "/livez")[0] == 200, 20, processes.said)
    # Nothing can serve it, which a trace tells like anything else.
    body = '{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'
    assert send(port, "POST", "/v1/chat/completions", body) == 503

    def lost() -> bool:
        return 'llm_router_spans_dropped_total{why="not_taken"}' in get(port, "/metrics")[1]

    eventually(lost, 30, processes.said)
