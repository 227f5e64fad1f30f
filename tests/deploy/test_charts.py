"""Every chart with every values file: linted, rendered, valid, and held against the policies of this repository.

The policies are those a scanner would ask for; here they are tests, so that each says what it wants and an
exception is written down in `EXCEPTIONS` with its reason.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import schemas
from charts import CHARTS, Case, Object, cases, containers, of_kind, pod_templates, render

ALL = cases()
# Rule, case, container: why it does not hold there.
EXCEPTIONS: dict[tuple[str, str, str], str] = {}


@pytest.fixture(scope="module")
def rendered(helm: Path) -> dict[Case, list[Object]]:
    return {case: render(helm, case) for case in ALL}


def test_every_chart_is_tested_with_several_values_files() -> None:
    for chart in (path.parent for path in CHARTS.glob("*/Chart.yaml")):
        assert len(cases(chart.name)) > 1, f"{chart.name} has no values file beside its defaults"
        assert (chart / "values.schema.json").is_file()
        assert (chart / "README.md").is_file()
        assert (chart / "templates" / "NOTES.txt").is_file()


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_chart_is_linted_without_a_word(case: Case, helm: Path) -> None:
    run = subprocess.run([helm, "lint", "--strict", *case.arguments], capture_output=True, text=True, timeout=30)
    assert run.returncode == 0, run.stdout + run.stderr
    assert not [line for line in run.stdout.splitlines() if line.startswith(("[WARNING]", "[ERROR]"))], run.stdout


def test_every_object_is_valid(rendered: dict[Case, list[Object]]) -> None:
    objects = []
    for case, items in rendered.items():
        objects += [item | {"metadata": item["metadata"] | {"name": item["metadata"]["name"]}} for item in items]
        titles = [(item["apiVersion"], schemas.title(item)) for item in items]
        assert len(titles) == len(set(titles)), f"{case} makes an object twice"
    assert schemas.problems(objects) == []


def test_objects_stay_in_the_release_s_namespace(rendered: dict[Case, list[Object]]) -> None:
    for case, items in rendered.items():
        if case.chart != "platform":
            assert not [schemas.title(item) for item in items if "namespace" in item["metadata"]], case


def test_every_service_finds_its_pods(rendered: dict[Case, list[Object]]) -> None:
    for case, items in rendered.items():
        pods = pod_templates(items)
        for service in of_kind(items, "Service"):
            wanted = dict(service["spec"]["selector"])
            wanted.pop("statefulset.kubernetes.io/pod-name", None)
            found = [pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]
            assert len(found) == 1, f"{case}: {schemas.title(service)} selects {len(found)} kinds of pods"
            ports = {port["name"] for container in containers(found[0]) for port in container.get("ports", [])}
            ports |= {port["containerPort"] for c in containers(found[0]) for port in c.get("ports", [])}
            if service["spec"].get("clusterIP") != "None":
                missing = {port["targetPort"] for port in service["spec"]["ports"]} - ports
                assert not missing, f"{case}: {schemas.title(service)} leads to {missing}, which no container has"


def test_every_selector_of_a_policy_finds_its_pods(rendered: dict[Case, list[Object]]) -> None:
    for case, items in rendered.items():
        pods = [pod["metadata"]["labels"] for pod in pod_templates(items)]
        selectors = [item["spec"]["podSelector"] for item in of_kind(items, "NetworkPolicy")]
        selectors += [item["spec"]["selector"] for item in of_kind(items, "PodDisruptionBudget")]
        for selector in selectors:
            assert any(selector["matchLabels"].items() <= labels.items() for labels in pods), f"{case}: {selector}"


def test_every_service_monitor_finds_a_port(rendered: dict[Case, list[Object]]) -> None:
    for case, items in rendered.items():
        for monitor in of_kind(items, "ServiceMonitor"):
            wanted = monitor["spec"]["selector"]["matchLabels"].items()
            services = [item for item in of_kind(items, "Service") if wanted <= item["metadata"]["labels"].items()]
            ports = {port["name"] for service in services for port in service["spec"]["ports"]}
            missing = {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} - ports
            assert not missing, f"{case}: {schemas.title(monitor)} asks for {missing}"


def _context(pod: Object, container: Object) -> Object:
    return {**pod["spec"].get("securityContext", {}), **container.get("securityContext", {})}


RULES = {
    "runs as a user who is not root": lambda pod, c: (
        _context(pod, c).get("runAsNonRoot") is True and _context(pod, c).get("runAsUser", 0) > 0
    ),
    "cannot write to its image": lambda pod, c: _context(pod, c).get("readOnlyRootFilesystem") is True,
    "cannot gain privileges": lambda pod, c: (
        _context(pod, c).get("allowPrivilegeEscalation") is False and not _context(pod, c).get("privileged")
    ),
    "has no capabilities": lambda pod, c: _context(pod, c).get("capabilities") == {"drop": ["ALL"]},
    "has the runtime's seccomp profile": lambda pod, c: (
        _context(pod, c).get("seccompProfile") == {"type": "RuntimeDefault"}
    ),
    "says what it needs": lambda _, c: (
        {"cpu", "memory"} <= c.get("resources", {}).get("requests", {}).keys()
        and "memory" in c["resources"].get("limits", {})
    ),
    "has a fixed version": lambda _, c: (
        bool(re.search(r"(@sha256:[0-9a-f]{64}|:[^/:]*[0-9][^/:]*)$", c["image"])) and ":latest" not in c["image"]
    ),
    "gets no token it does not use": lambda pod, _: pod["spec"].get("automountServiceAccountToken") is False,
    "has an account of its own": lambda pod, _: pod["spec"].get("serviceAccountName", "default") != "default",
    "shares nothing with its machine": lambda pod, c: (
        not any(pod["spec"].get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        and not any("hostPath" in volume for volume in pod["spec"].get("volumes", []))
        and not any("hostPort" in port for port in c.get("ports", []))
    ),
    "learns no addresses from its environment": lambda pod, _: pod["spec"].get("enableServiceLinks") is False,
    "carries no secret in its manifest": lambda _, c: (
        not [
            env["name"]
            for env in c.get("env", [])
            if re.search(r"KEY|TOKEN|SECRET|PASSWORD", env["name"]) and env.get("value", "") not in ("",)
        ]
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_container(rule: str, rendered: dict[Case, list[Object]]) -> None:
    broken = [
        f"{case}: {container['name']}"
        for case, items in rendered.items()
        for pod in pod_templates(items)
        for container in containers(pod)
        if not RULES[rule](pod, container) and (rule, str(case), container["name"]) not in EXCEPTIONS
    ]
    assert not broken


def test_every_container_that_serves_is_probed(rendered: dict[Case, list[Object]]) -> None:
    for case, items in rendered.items():
        for pod in pod_templates(items):
            for container in pod["spec"]["containers"]:
                if container.get("ports"):
                    assert {"readinessProbe", "livenessProbe"} <= container.keys(), f"{case}: {container['name']}"


def test_every_mount_has_its_volume_and_every_volume_its_mount(rendered: dict[Case, list[Object]]) -> None:
    for case, items in rendered.items():
        claims = {
            claim["metadata"]["name"]
            for item in of_kind(items, "StatefulSet")
            for claim in item["spec"].get("volumeClaimTemplates", [])
        }
        for pod in pod_templates(items):
            volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
            mounts = {mount["name"] for c in containers(pod) for mount in c.get("volumeMounts", [])}
            assert mounts <= volumes | claims, f"{case}: {mounts - volumes - claims} has no volume"
            assert volumes <= mounts, f"{case}: {volumes - mounts} is never mounted"


def test_no_secret_is_made_from_values(rendered: dict[Case, list[Object]]) -> None:
    assert not [str(case) for case, items in rendered.items() if of_kind(items, "Secret")]


def test_every_reference_to_a_config_map_of_the_release_exists(rendered: dict[Case, list[Object]]) -> None:
    for case, items in rendered.items():
        made = {item["metadata"]["name"] for item in of_kind(items, "ConfigMap")}
        for pod in pod_templates(items):
            for volume in pod["spec"].get("volumes", []):
                name = volume.get("configMap", {}).get("name")
                if name and name.startswith(("router", "llama", "edge", "exporters")):
                    assert name in made, f"{case}: {name}"
