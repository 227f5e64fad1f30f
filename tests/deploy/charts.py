"""Renders the charts of this repository with real Helm, each with every values file it has."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHARTS = ROOT / "charts"
NAMESPACE = "llm"
# What a release is called, so that the charts' samples fit together.
RELEASES = {"llm-server": "llama"}

Object = dict[str, Any]


# In the place of a chart that cannot be fetched here: shows the values that it would have got.
STUB = """apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Chart.Name }}-values}
data:
  version: {{ .Chart.Version }}
  values: |
    {{- toYaml .Values | nindent 4 }}
"""


@functools.lru_cache
def complete(chart: str) -> Path:
    """A chart's folder; where it depends on others' charts, a copy with stubs of them."""
    folder = CHARTS / chart
    dependencies = yaml.safe_load((folder / "Chart.yaml").read_text()).get("dependencies", [])
    if not dependencies:
        return folder
    place = Path(tempfile.mkdtemp(prefix="chart-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    copy = place / chart
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("charts"))
    for dependency in dependencies:
        stub = copy / "charts" / dependency["name"]
        (stub / "templates").mkdir(parents=True)
        about = {"apiVersion": "v2", "name": dependency["name"], "version": dependency["version"]}
        (stub / "Chart.yaml").write_text(yaml.safe_dump(about))
        (stub / "templates" / "values.yaml").write_text(STUB)
    return copy


@dataclass(frozen=True)
class Case:
    """A chart with one values file, or with none."""

    chart: str
    values: str | None

    def __str__(self) -> str:
        return f"{self.chart}/{self.values or 'defaults'}"

    @property
    def arguments(self) -> list[str]:
        """What Helm is told of it."""
        folder = complete(self.chart)
        return [str(folder), *(["--values", str(folder / self.values)] if self.values else [])]


def cases(*charts: str) -> list[Case]:
    """Every values file of some charts, or of all."""
    found = []
    for folder in sorted(path.parent for path in CHARTS.glob("*/Chart.yaml")):
        if charts and folder.name not in charts:
            continue
        files = sorted([*folder.glob("values-*.yaml"), *folder.glob("ci/*.yaml")])
        found += [Case(folder.name, None), *(Case(folder.name, str(file.relative_to(folder))) for file in files)]
    return found


def template(helm: Path, case: Case, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs `helm template`, whatever comes of it."""
    release = RELEASES.get(case.chart, case.chart)
    command = [helm, "template", release, *case.arguments, "--namespace", NAMESPACE, "--include-crds", *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@functools.lru_cache
def render(helm: Path, case: Case, *more: str) -> list[Object]:
    """The objects that a chart makes."""
    run = template(helm, case, *more)
    assert run.returncode == 0, f"{case}: {run.stderr}"
    return [item for item in yaml.safe_load_all(run.stdout) if item]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Those of one kind."""
    return [item for item in objects if item["kind"] == kind]


def pod_templates(objects: list[Object]) -> list[Object]:
    """The pod templates of every workload."""
    specs = [item["spec"] for item in objects if item["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job")]
    specs += [item["spec"]["jobTemplate"]["spec"] for item in of_kind(objects, "CronJob")]
    return [spec["template"] for spec in specs]


def containers(pod: Object) -> list[Object]:
    """All containers of a pod template, those that initialise it first."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
