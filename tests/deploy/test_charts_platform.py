"""The platform's chart: pinned parts that get their values, and the authority that signs the routers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from charts import CHARTS, Case, Object, cases, of_kind, render, template

CASES = cases("platform")
DEFAULTS = CASES[0]
CLOUDS = [Case("platform", f"values-{cloud}.yaml") for cloud in ("aws", "gcp", "azure")]
CHART = yaml.safe_load((CHARTS / "platform/Chart.yaml").read_text())


def _parts(objects: list[Object]) -> dict[str, Object]:
    """The values that each part would have got."""
    shown = [item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"].endswith("-values")]
    return {item["metadata"]["name"].removesuffix("-values"): yaml.safe_load(item["data"]["values"]) for item in shown}


def test_every_part_is_pinned_and_can_be_left_out() -> None:
    page = (CHARTS / "platform/README.md").read_text()
    values = yaml.safe_load((CHARTS / "platform/values.yaml").read_text())
    for part in CHART["dependencies"]:
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", part["version"]), part
        assert part["repository"].startswith("https://")
        assert part["condition"] == f"{part['name']}.enabled"
        assert "enabled" in values[part["name"]]
        assert f"`{part['name']}` | {part['version']} |" in page


def test_a_part_that_is_left_out_is_not_there(helm: Path) -> None:
    every = {part["name"] for part in CHART["dependencies"]}
    assert every - _parts(render(helm, DEFAULTS)).keys() == {"cert-manager-csi-driver", "external-dns"}
    assert _parts(render(helm, Case("platform", "ci/authority-only.yaml"))) == {}


def test_prometheus_sees_what_our_charts_deploy_and_grafana_their_dashboards(helm: Path) -> None:
    stack = _parts(render(helm, DEFAULTS))["kube-prometheus-stack"]
    spec = stack["prometheus"]["prometheusSpec"]
    assert spec["serviceMonitorSelectorNilUsesHelmValues"] is False
    assert spec["ruleSelectorNilUsesHelmValues"] is False
    sidecar = stack["grafana"]["sidecar"]["dashboards"]
    router = yaml.safe_load((CHARTS / "router/values.yaml").read_text())
    assert sidecar["label"] in router["monitoring"]["dashboards"]["labels"]
    assert sidecar["searchNamespace"] == "ALL"
    server = yaml.safe_load((CHARTS / "llm-server/values.yaml").read_text())
    address = f"http://prometheus-operated.{stack['namespaceOverride']}.svc:9090"
    assert server["autoscaling"]["keda"]["prometheus"] == address


def test_the_routers_are_signed_by_the_issuer_they_name(helm: Path) -> None:
    router = yaml.safe_load((CHARTS / "router/values.yaml").read_text())
    for case in (DEFAULTS, *CLOUDS):
        issuers = {item["metadata"]["name"]: item["spec"] for item in of_kind(render(helm, case), "ClusterIssuer")}
        wanted = router["gossip"]["identity"]["issuerRef"]
        assert wanted["kind"] == "ClusterIssuer"
        signs_with = issuers[wanted["name"]]["ca"]["secretName"]
        roots = {item["spec"]["secretName"]: item["spec"] for item in of_kind(render(helm, case), "Certificate")}
        if case == DEFAULTS:
            assert roots[signs_with]["isCA"] is True
        else:
            assert roots == {}, "a region of several makes no root of its own"


def test_what_needs_cert_manager_comes_after_it(helm: Path) -> None:
    for case in CASES:
        for item in render(helm, case):
            if item["apiVersion"].startswith("cert-manager.io/"):
                assert int(item["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]) > 0


@pytest.mark.parametrize("case", CLOUDS, ids=str)
def test_dns_records_have_an_owner_and_a_zone(case: Case, helm: Path) -> None:
    dns = _parts(render(helm, case))["external-dns"]
    assert dns["txtOwnerId"].startswith("llm-router-")
    assert dns["domainFilters"]
    assert dns["policy"] == "upsert-only"
    names = {"aws": "aws", "gcp": "google", "azure": "azure"}
    assert dns["provider"]["name"] == names[(case.values or "").removeprefix("values-").removesuffix(".yaml")]


def test_the_collector_passes_traces_from_otlp_to_an_exporter_that_exists(helm: Path) -> None:
    config = _parts(render(helm, DEFAULTS))["opentelemetry-collector"]["config"]
    traces = config["service"]["pipelines"]["traces"]
    assert traces["receivers"] == ["otlp"]
    assert traces["processors"][0] == "memory_limiter"
    for kind in ("receivers", "processors", "exporters"):
        assert all(config[kind].get(name) is not None for name in traces[kind])


REFUSED = {
    "acme.enabled=true": "acme.email is empty",
    "acme.email=nobody": "does not match pattern",
    "authority.secretName=": "authority.secretName is empty",
    "authority.kind=vault": "value must be one of 'selfSigned', 'secret'",
    "external-dns.enabled=true": "external-dns.txtOwnerId is empty",
    "external-dns.enabled=true,external-dns.txtOwnerId=a": "external-dns.domainFilters is empty",
    "acme.enabled=true,acme.email=a@b.example,traefik.enabled=false": "traefik.enabled is false",
    "prometheus.enabled=true": "additional properties 'prometheus' not allowed",
}


@pytest.mark.parametrize(("values", "says"), REFUSED.items(), ids=list(REFUSED))
def test_a_wrong_value_fails_early_and_says_why(values: str, says: str, helm: Path) -> None:
    run = template(helm, DEFAULTS, "--set", values)
    assert run.returncode != 0
    assert says in run.stderr
