"""The programs and the schemas that the other tests lean on find what they are there to find."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import schemas


def test_helm_and_kubectl_are_the_real_ones(helm: Path, kubectl: Path) -> None:
    version = subprocess.run([helm, "version", "--short"], capture_output=True, text=True, check=True, timeout=20)
    assert version.stdout.startswith("v4.")
    client = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, check=True, timeout=20)
    assert "v1.37" in client.stdout


GOOD = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({**GOOD, "spec": {"ports": [{"port": "80"}]}}, "Service/a: spec.ports.0.port"),
        ({**GOOD, "spec": {"prots": []}}, "'prots'"),
        ({**GOOD, "kind": "Servise"}, "no such kind"),
        ({**GOOD, "apiVersion": "example.org/v1"}, "no definition"),
    ],
    ids=["type", "field", "kind", "group"],
)
def test_a_wrong_object_is_found(item: schemas.Object, says: str) -> None:
    (problem,) = schemas.problems([item])
    assert says in problem


def test_custom_resources_are_held_against_their_definitions() -> None:
    def monitor(**endpoint: object) -> schemas.Object:
        return {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": {"name": "a"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "endpoints": [{"port": "http"} | endpoint]},
        }

    # In one go: each compiles what it finds.
    found = schemas.problems([GOOD, monitor(interval="15s"), monitor(port=8080), monitor(intervall="15s")])
    assert any("port must be string" in problem for problem in found)
    assert any("intervall" in problem for problem in found)
    # The number is found twice, by its value and by its type.
    assert len(found) == 3
