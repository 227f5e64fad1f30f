"""What is printed after an installation: complete, and true where it can be tried."""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path

import pytest
from charts import NAMESPACE, RELEASES, Case, cases

ALL = cases()


def _notes(helm: Path, case: Case) -> str:
    release = RELEASES.get(case.chart, case.chart)
    command = [helm, "install", release, *case.arguments, "--namespace", NAMESPACE, "--dry-run=client"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.partition("\nNOTES:\n")[2]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_the_notes_are_complete(case: Case, helm: Path) -> None:
    notes = _notes(helm, case)
    assert notes.strip()
    assert "<no value>" not in notes
    assert "<nil>" not in notes
    assert "%!" not in notes
    assert "\n\n\n" not in notes.strip()


@pytest.mark.parametrize("case", cases("llm-server"), ids=str)
def test_the_entry_for_the_routers_is_one_they_accept(case: Case, helm: Path, llm_router: Path, tmp_path: Path) -> None:
    (entry,) = re.findall(r"^  clusters:\n(?:    .*\n)+", _notes(helm, case), re.MULTILINE)
    file = tmp_path / "router.yaml"
    file.write_text(textwrap.dedent(entry))
    command = [llm_router, "check", "--config", file]
    environment = {"CLUSTER_SECRET": "secret"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert run.returncode == 0, f"{entry}{run.stderr}"
