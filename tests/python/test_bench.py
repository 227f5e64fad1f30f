"""The harness of the benchmarks (`bench/run`): that it measures what it says, not how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from binary import binary

ROOT = Path(__file__).resolve().parents[2]


def test_a_short_run_measures_the_router_beside_a_proxy_and_writes_its_report(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "run"), "--rounds", "1", "--seconds", "1", "--streams", "20"]
    command += ["--only", "direct,haproxy,router", "--out", str(tmp_path)]
    env = {**os.environ, "LLM_ROUTER_BIN": str(binary()), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert (tmp_path / "figures.json").exists(), done.stderr
    samples = json.loads((tmp_path / "figures.json").read_text())["samples"]
    for section in ("plain", "burst", "paced"):
        assert set(samples[section]) == {"direct", "haproxy", "router"}
    for name in ("haproxy", "router"):
        plain = samples["plain"][name][0]
        assert plain["failed"] == 0
        assert plain["requests"] > 100
        assert plain["cpu_s_per_10k"] > 0
        assert plain["idle_mb"] > 1
    burst, paced = samples["burst"], samples["paced"]
    # Every event went through: a stream has its role, 40 words, its end, its usage and its last mark. The usage is what
    # the router asks for itself: a client that did not is not sent it.
    assert burst["haproxy"][0]["events"] == burst["haproxy"][0]["answers"] * 44
    assert burst["router"][0]["events"] == burst["router"][0]["answers"] * 43
    assert paced["router"][0]["answers"] == 20
    report = (tmp_path / "report.md").read_text()
    assert "| haproxy |" in report
    assert "first byte p99 of paced streams" in report
    assert (tmp_path / "cpu.svg").read_text().count("<rect") == 3


def test_ratios_are_taken_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from lab.figures import Figures

    figures = Figures(3, 1)
    # A machine that is slower from round to round: each alone varies by a factor of 4, the ratio not at all.
    for slowness in (1, 2, 4):
        figures.add("plain", "router", {"cpu": 0.3 * slowness})
        figures.add("plain", "nginx", {"cpu": 0.1 * slowness})
    ratio = figures.ratio("plain", "router", "nginx", "cpu")
    assert ratio is not None
    assert ratio.median == pytest.approx(3)
    assert ratio.spread == pytest.approx(0, abs=1e-9)
    alone = figures.summary("plain", "router", "cpu")
    assert alone is not None
    assert alone.spread == pytest.approx(1.5)
    assert figures.ratio("plain", "router", "haproxy", "cpu") is None
