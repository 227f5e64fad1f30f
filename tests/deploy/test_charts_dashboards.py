"""The dashboards that the charts carry: whole, and every question is one Prometheus understands and we answer."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import CHARTS

DASHBOARDS = sorted(CHARTS.glob("*/files/dashboards/*.json"))


def _panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for panel in dashboard["panels"]:
        found += [panel, *panel.get("panels", [])]
    return found


def _questions(dashboard: dict[str, Any]) -> list[str]:
    asked = [target["expr"] for panel in _panels(dashboard) for target in panel.get("targets", []) if "expr" in target]
    return [re.sub(r"\$__(rate_)?interval|\$__range", "5m", text) for text in asked]


def test_there_is_a_dashboard() -> None:
    assert DASHBOARDS


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.name)
def test_a_dashboard_is_whole(file: Path) -> None:
    dashboard = json.loads(file.read_text())
    assert dashboard["title"]
    assert dashboard["uid"]
    assert dashboard.get("id") is None, "an id belongs to one Grafana"
    panels = _panels(dashboard)
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    places = [tuple(panel["gridPos"][key] for key in ("x", "y")) for panel in panels]
    assert len(places) == len(set(places)), "two panels lie in one place"
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    named = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\}?(?![a-z_])", json.dumps(dashboard["panels"])))
    assert used <= named, f"{used - named} is no variable of the dashboard"
    assert len(file.read_bytes()) < 900_000, "a ConfigMap holds a megabyte"


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.name)
def test_every_question_is_understood_and_asks_for_what_is_there(file: Path, promtool: Path, tmp_path: Path) -> None:
    questions = _questions(json.loads(file.read_text()))
    assert questions
    rules = [{"record": f"panel:{at}", "expr": text.replace("$namespace", ".*")} for at, text in enumerate(questions)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    command = [promtool, "check", "rules", tmp_path / "rules.yaml"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    pages = "".join((CHARTS.parent / "docs" / page).read_text() for page in ("METRICS.md", "SIDECAR.md"))
    documented = set(re.findall(r"`(llm_[a-z_0-9]+)", pages))
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bllm_[a-z_0-9]+", " ".join(questions))}
    assert asked <= documented, f"{asked - documented} is not documented"
