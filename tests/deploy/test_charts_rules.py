"""Alerts and recording rules: Prometheus' own tool reads them, and they fire when they should and not otherwise."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from charts import CHARTS, ROOT

RULES = sorted(CHARTS.glob("*/files/rules/*.yaml"))
TESTS = sorted((ROOT / "tests/deploy/rules").glob("*.yaml"))


@pytest.mark.parametrize("file", RULES, ids=lambda file: str(file.relative_to(CHARTS)))
def test_prometheus_reads_the_rules(file: Path, promtool: Path) -> None:
    run = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "SUCCESS" in run.stdout


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_the_rules_say_what_they_should(file: Path, promtool: Path) -> None:
    run = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def _alerts() -> list[str]:
    files = [yaml.safe_load(file.read_text()) for file in RULES]
    return [rule["alert"] for file in files for group in file["groups"] for rule in group["rules"] if "alert" in rule]


def test_every_alert_has_an_entry_in_the_runbook_and_every_entry_an_alert() -> None:
    headings = re.findall(r"^### (\S+)$", (ROOT / "docs/RUNBOOK.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(_alerts())


def test_every_alert_is_seen_to_fire() -> None:
    """By promtool's tests above: an expression nobody has seen true may never be."""
    fired = {
        test["alertname"]
        for file in TESTS
        for scene in yaml.safe_load(file.read_text())["tests"]
        for test in scene.get("alert_rule_test", ())
        if test.get("exp_alerts")
    }
    assert set(_alerts()) <= fired, sorted(set(_alerts()) - fired)


def test_prometheus_reads_the_laptop_s_file(promtool: Path, tmp_path: Path) -> None:
    text = (ROOT / "deploy/compose/prometheus.yaml").read_text()
    file = tmp_path / "prometheus.yaml"
    file.write_text(text.replace("/etc/prometheus/rules", str(CHARTS / "router/files/rules")))
    run = subprocess.run([promtool, "check", "config", file], capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "rules found" in run.stdout
