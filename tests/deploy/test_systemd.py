"""The units for plain machines: systemd understands them, and keeps the service from nearly everything."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from charts import ROOT

UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
# Of 10; systemd itself calls what is below 2 «OK».
EXPOSURE_MAX = 1.5


def _settings(unit: Path) -> list[tuple[str, str]]:
    pairs = [line.partition("=") for line in unit.read_text().splitlines() if re.match(r"[A-Za-z]+=", line)]
    return [(key, value) for key, _, value in pairs]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_the_unit_and_finds_it_well_kept(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("no systemd here")
    # With a program that exists on this machine.
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/usr/local/bin/llm-router", "/bin/true"))
    run = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, timeout=30, check=False)
    assert not [line for line in run.stderr.splitlines() if unit.name in line], run.stderr
    command = [analyze, "security", "--offline=true", f"--threshold={int(EXPOSURE_MAX * 10)}", unit]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stdout[-300:]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_unit_starts_what_the_binary_has(unit: Path, llm_router: Path) -> None:
    starts = [value.split() for key, value in _settings(unit) if key in ("ExecStartPre", "ExecStart")]
    assert next(words[1] for words in starts) == "check"
    for program, command, option, _ in starts:
        assert program == "/usr/local/bin/llm-router"
        usage = subprocess.run([llm_router, command, "--help"], capture_output=True, text=True, timeout=20, check=True)
        assert option in usage.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_unit_is_not_root_and_waits_for_running_answers(unit: Path) -> None:
    settings = dict(_settings(unit))
    assert settings["DynamicUser"] == "yes"
    assert settings["NoNewPrivileges"] == "yes"
    assert settings["ProtectSystem"] == "strict"
    assert settings["CapabilityBoundingSet"] == ""
    assert settings["LimitCORE"] == "0"
    assert int(settings["TimeoutStopSec"].removesuffix("min")) * 60 > 605
