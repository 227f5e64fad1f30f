"""The chaos scenarios for a real cluster: shellcheck, the manifest against its schema, and what they ask of kubectl."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import schemas
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "chaos" / "kubernetes"
SCENARIOS = ["kill-pod", "drain-node", "cut-network"]
STUB = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["STUB_LOG"], "a") as log:
    log.write(json.dumps(sys.argv[1:]) + chr(10))
if any("metadata.name" in word for word in sys.argv):
    print("router-1")
if any("nodeName" in word for word in sys.argv):
    print("node-7")
sys.exit(1 if "wait" in sys.argv and os.environ.get("NEVER_READY") else 0)
"""


def run(folder: Path, scenario: str, *arguments: str, **env: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs a scenario against a stand-in for kubectl; what it asked of it, as lines."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name in ("kubectl", "sleep"):
        (bin_folder / name).write_text(STUB)
        (bin_folder / name).chmod(0o755)
    log = folder / "calls"
    done = subprocess.run(
        [str(FOLDER / scenario), *arguments],
        env={"PATH": f"{bin_folder}:/usr/bin:/bin", "STUB_LOG": str(log), **env},
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    calls = [" ".join(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
    return done, calls


def test_shellcheck_finds_nothing() -> None:
    files = [f"chaos/kubernetes/{name}" for name in [*SCENARIOS, "lib.sh"]]
    done = subprocess.run(
        ["shellcheck", "-x", *files], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_policy_is_valid_and_lets_nothing_through() -> None:
    policy = yaml.safe_load((FOLDER / "cut-network.yaml").read_text().replace("POD", "router-0"))
    assert schemas.problems([policy]) == []
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy["spec"] and "egress" not in policy["spec"]


def test_a_pod_is_killed_without_grace_and_awaited(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "kill-pod", "--namespace", "eu")
    assert done.returncode == 0, done.stderr
    assert "--namespace eu delete pod router-1 --grace-period 0 --force" in calls
    assert calls[-1].startswith("--namespace eu wait pods") and "condition=Ready" in calls[-1]


def test_a_drained_node_is_used_again_even_if_routers_do_not_come_back(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "drain-node", "router-2")
    assert done.returncode == 0, done.stderr
    assert any(call.startswith("drain node-7 --ignore-daemonsets") for call in calls)
    assert calls[-1] == "uncordon node-7"


def test_the_network_is_mended_at_the_end(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "cut-network", "router-2", "--seconds", "5")
    assert done.returncode == 0, done.stderr
    cut, mended = (next(i for i, c in enumerate(calls) if word in c) for word in ("apply", "delete networkpolicy"))
    assert cut < calls.index("5") < mended


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_routers_that_are_not_ready_end_it_before_anything_is_broken(scenario: str, tmp_path: Path) -> None:
    done, calls = run(tmp_path, scenario, NEVER_READY="1")
    assert done.returncode == 1
    assert "not all routers are ready" in done.stderr
    assert len(calls) == 1


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_help_a_dry_run_and_wrong_options(scenario: str, tmp_path: Path) -> None:
    for folder in "abc":
        (tmp_path / folder).mkdir()
    done, _ = run(tmp_path / "a", scenario, "--help")
    assert done.returncode == 0 and f"chaos/kubernetes/{scenario}" in done.stdout
    done, calls = run(tmp_path / "b", scenario, "router-0", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert all("get" in call for call in calls), "a dry run only looks"
    done, _ = run(tmp_path / "c", scenario, "--fast")
    assert done.returncode == 64 and "unknown option `--fast`" in done.stderr
