"""The laptop's deployment: what it mounts exists, what it starts accepts its files, nothing listens beyond it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from charts import CHARTS, ROOT

FOLDER = ROOT / "deploy/compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_locked_and_kept_on_this_machine(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":v?[a-z0-9-]*[0-9][^:]*$", service["image"])
    assert "latest" not in service["image"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not service.get("privileged")


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_mounts_and_waits_for_exists(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("depends_on", [])) <= SERVICES.keys()
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        known = (FOLDER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
        assert known, volume


def _environment(name: str) -> dict[str, str]:
    """What compose would give a service, where nothing is set outside."""
    given = SERVICES[name].get("environment", {})
    return {key: re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", str(value)) for key, value in given.items()}


@pytest.mark.parametrize("name", ["router", "sidecar"])
def test_the_real_binary_accepts_the_files_with_that_environment(name: str, llm_router: Path) -> None:
    command, option, path = SERVICES[name]["command"]
    (source,) = [volume.split(":")[0] for volume in SERVICES[name]["volumes"] if f":{path}:" in volume]
    usage = subprocess.run([llm_router, command, "--help"], capture_output=True, text=True, check=True, timeout=20)
    assert option in usage.stdout
    run = subprocess.run(
        [llm_router, "check", "--config", FOLDER / source],
        env={"PATH": os.environ["PATH"]} | _environment(name),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_services_reach_each_other_by_names_that_exist() -> None:
    for file in FOLDER.rglob("*.yaml"):
        if file.name == "compose.yaml":
            continue
        for host in re.findall(r"https?://([a-z][a-z0-9-]*):\d+", file.read_text()):
            assert host in SERVICES, f"{file.name}: {host}"
    targets = [
        target
        for job in yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    ]
    assert {target.split(":")[0] for target in targets} <= SERVICES.keys()


def test_a_stopping_service_outlives_its_longest_answer() -> None:
    for name in ("router", "sidecar"):
        config = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        section = config.get("server", config.get("sidecar"))
        grace = int(SERVICES[name]["stop_grace_period"].removesuffix("m")) * 60
        assert grace > int(section["drainTimeout"].removesuffix("s")) > 600


def test_the_laptop_s_llama_server_is_the_chart_s(llama_server: Path) -> None:
    chart = yaml.safe_load((CHARTS / "llm-server/values.yaml").read_text())
    image = chart["llama"]["image"]
    assert SERVICES["llama"]["image"] == f"{image['repository']}:{image['tag']}"
    assert SERVICES["model"]["environment"]["MODEL_SHA256"] == chart["model"]["sha256"]
    assert SERVICES["model"]["environment"]["MODEL_URI"] == chart["model"]["uri"]
    usage = subprocess.run([llama_server, "--help"], capture_output=True, text=True, check=True, timeout=20).stdout
    known = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", usage))
    assert {word for word in SERVICES["llama"]["command"] if word.startswith("-")} <= known
