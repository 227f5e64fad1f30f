"""The one file all clouds share, and the program that reads it for scripts, values and costs."""

from __future__ import annotations

import copy
import json
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
PLATFORM = json.loads((INFRA / "common" / "platform.json").read_text())
# The same list is tried on the TypeScript side by infra/tests/platform.test.ts.
WRONG = json.loads((INFRA / "tests" / "wrong-values.json").read_text())


def platformctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the program, whatever comes of it."""
    command = [str(INFRA / "platformctl"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT)


def with_value(path: str, value: Any) -> Any:
    """The platform file with one value replaced, or removed where the new one is None."""
    platform = copy.deepcopy(PLATFORM)
    *way, last = path.split("/")
    inner = platform
    for step in way:
        inner = inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return platform


def test_the_file_is_without_a_problem() -> None:
    run = platformctl("check")
    assert (run.returncode, run.stdout) == (0, "ok: 3 regions, 2 environments\n")


def test_the_schema_is_one_and_the_file_follows_it() -> None:
    schema = json.loads((INFRA / "common" / "platform.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert not list(jsonschema.Draft202012Validator(schema).iter_errors(PLATFORM))


@pytest.mark.parametrize("wrong", WRONG, ids=[item["what"] for item in WRONG])
def test_a_wrong_value_is_refused_with_its_path(wrong: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "platform.json"
    file.write_text(json.dumps(with_value(wrong["path"], wrong["value"])))
    run = platformctl("--platform", str(file), "check")
    assert run.returncode == 64
    assert any(line.strip().startswith(f"{wrong['says']}:") for line in run.stderr.splitlines()), run.stderr


def test_all_wrong_values_are_named_at_once(tmp_path: Path) -> None:
    platform = with_value("gossip/port", 80)
    platform["health"]["ttlSeconds"] = 0
    file = tmp_path / "platform.json"
    file.write_text(json.dumps(platform))
    run = platformctl("--platform", str(file), "check")
    assert "gossip.port: `80` is less than 1024" in run.stderr
    assert "health.ttlSeconds: `0` is less than 10" in run.stderr


def test_a_value_is_read_by_its_path_and_a_wrong_path_says_what_there_is() -> None:
    assert platformctl("get", "names.pools.gpu").stdout == "gpuspot\n"
    run = platformctl("get", "names.pools.tpu")
    assert run.returncode == 64
    assert "there is system, cpu, gpu" in run.stderr


# --- costs ---------------------------------------------------------------------------------------


def costs(platform: Any, tmp_path: Path, env: str = "prod") -> dict[str, dict[str, Decimal]]:
    """What the program computes of a platform file."""
    file = tmp_path / "platform.json"
    file.write_text(json.dumps(platform))
    run = platformctl("--platform", str(file), "costs", "--env", env, "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout, parse_float=Decimal)


def test_the_cost_table_of_the_page_is_the_one_the_prices_give() -> None:
    run = platformctl("costs", "--check", str(ROOT / "docs" / "DEPLOY.md"))
    assert run.returncode == 0, run.stderr


def test_a_changed_price_makes_the_page_stale(tmp_path: Path) -> None:
    file = tmp_path / "platform.json"
    file.write_text(json.dumps(with_value("regions/aws-us-west-2/prices/controlPlaneHour/usd", 0.6)))
    run = platformctl("--platform", str(file), "costs", "--check", str(ROOT / "docs" / "DEPLOY.md"))
    assert run.returncode == 64
    assert "is stale: run `infra/platformctl costs --write" in run.stderr


def test_a_gpu_costs_its_spot_price_and_disk_for_the_hours_it_is_up(tmp_path: Path) -> None:
    table = costs(PLATFORM, tmp_path)
    for key, region in PLATFORM["regions"].items():
        machine, disk = region["machines"]["gpu"], Decimal(str(region["prices"]["diskGibMonth"]["usd"]))
        month = Decimal(str(machine["spotHour"]["usd"])) * 730 + machine["diskGib"] * disk
        assert abs(table[key]["GPU spot"] - table[key]["CPU only"] - month) < Decimal("0.02")
        share = month * PLATFORM["workload"]["gpuHoursOnDemand"] / 730
        assert abs(table[key]["GPU scale-to-zero"] - table[key]["CPU only"] - share) < Decimal("0.02")


def test_a_region_s_bill_by_hand(tmp_path: Path) -> None:
    # gcp, dev: control plane, 2 addresses and 2 forwarding rules all month, stores, one system machine on
    # demand and one spot machine with their disks, NAT of both, traffic.
    standing = Decimal("0.10") * 730 + 2 * Decimal("0.005") * 730 + 2 * Decimal("0.025") * 730
    standing += 30 * Decimal("0.10") + Decimal("0.20") + Decimal("0.06")
    machines = (Decimal("0.06701") + Decimal("0.05879")) * 730 + 2 * 50 * Decimal("0.10") + 2 * Decimal("0.0014") * 730
    traffic = 50 * Decimal("0.045") + 50 * Decimal("0.12") + 10 * Decimal("0.5")
    row = costs(PLATFORM, tmp_path, "dev")["gcp-us-central1"]
    assert abs(row["paused"] - standing) < Decimal("0.01")
    assert abs(row["CPU only"] - standing - machines - traffic) < Decimal("0.01")


def test_the_total_is_the_sum_and_layouts_are_in_the_order_of_their_price(tmp_path: Path) -> None:
    table = costs(PLATFORM, tmp_path)
    for layout, total in table["total"].items():
        rows = [row[layout] for key, row in table.items() if key != "total"]
        assert abs(sum(rows) - total) < Decimal("0.05")
    for key in PLATFORM["regions"]:
        row = table[key]
        assert row["paused"] < row["CPU only"] < row["GPU scale-to-zero"] < row["GPU spot"]


def test_the_budget_of_an_environment_bears_its_dearest_layout(tmp_path: Path) -> None:
    for env, settings in PLATFORM["environments"].items():
        table = costs(PLATFORM, tmp_path, env)
        for key in PLATFORM["regions"]:
            assert max(table[key].values()) < settings["budgetUsd"], f"{env} {key}"
