"""The programs of the clouds: their types against the providers' own, their unit tests with the clouds replaced."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

INFRA = Path(__file__).resolve().parents[2] / "infra"


def _node(*command: str, deadline: int, cwd: Path = INFRA) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CI": "true", "NO_COLOR": "1"}
    program = INFRA / "node_modules" / ".bin" / command[0]
    assert program.is_file(), f"no {program}: run `bash tests/run deploy`, which installs infra/package-lock.json"
    return subprocess.run(
        [program, *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True, timeout=deadline, check=False
    )


@pytest.mark.timeout(320)
def test_every_property_is_one_the_cloud_s_provider_knows() -> None:
    # One that no provider knows is put among them: what finds that one and no other has looked.
    broken = INFRA / "tests" / f"broken-{os.getpid()}.ts"
    broken.write_text('import * as aws from "@pulumi/aws";\nnew aws.ec2.Vpc("x", { cidrBlok: "10.0.0.0/16" });\n')
    try:
        run = _node("tsc", "--noEmit", deadline=300)
    finally:
        broken.unlink()
    errors = [line for line in run.stdout.splitlines() if "error TS" in line]
    assert len(errors) == 1, run.stdout
    assert errors[0].startswith(f"tests/{broken.name}") and "'cidrBlok' does not exist" in errors[0]


@pytest.mark.timeout(320)
def test_every_region_of_every_cloud_holds_what_it_must() -> None:
    run = _node("vitest", "run", "--reporter=json", deadline=300)
    report = json.loads(run.stdout[run.stdout.index("{") :])
    failed = [
        f"{test['fullName']}: {' '.join(test['failureMessages'])[:600]}"
        for file in report["testResults"]
        for test in file["assertionResults"]
        if test["status"] != "passed"
    ]
    assert not failed, "\n".join(failed)
    assert run.returncode == 0, run.stderr
    # Fewer would mean that a file was not found.
    assert report["numPassedTests"] > 150


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure", "dns"])
def test_each_program_has_the_stacks_dev_and_prod_with_settings_of_its_own_project(cloud: str) -> None:
    folder = INFRA / cloud
    project = re.search(r"^name: (\S+)$", (folder / "Pulumi.yaml").read_text(), re.MULTILINE)
    assert project
    for stack in ("dev", "prod"):
        settings = (folder / f"Pulumi.{stack}.yaml").read_text()
        keys = re.findall(r"^  ([a-z-]+):\w+:", settings, re.MULTILINE)
        assert keys and set(keys) == {project[1]}


def test_the_settings_a_program_asks_for_are_those_its_stacks_have() -> None:
    for cloud in ("aws", "gcp", "azure", "dns"):
        index = (INFRA / cloud / "index.ts").read_text()
        asked = set(re.findall(r'config\.require(?:Object<[^(]*>)?\("(\w+)"\)', index))
        for stack in ("dev", "prod"):
            text = (INFRA / cloud / f"Pulumi.{stack}.yaml").read_text()
            assert set(re.findall(r"^  [a-z-]+:(\w+):", text, re.MULTILINE)) == asked, f"{cloud} {stack}"


def test_node_is_new_enough_for_pulumi() -> None:
    node = shutil.which("node")
    assert node
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    assert int(version.lstrip("v").split(".")[0]) >= 20, f"infra/ needs Node 20 or newer, this is {version}"


@pytest.mark.parametrize(("cloud", "stack"), [("aws", "prod"), ("gcp", "dev"), ("azure", "prod"), ("dns", "dev")])
def test_each_program_loads_as_pulumi_loads_it_with_the_settings_of_its_stack(cloud: str, stack: str) -> None:
    settings = yaml.safe_load((INFRA / cloud / f"Pulumi.{stack}.yaml").read_text())["config"]
    config = {key: json.dumps(value) if isinstance(value, dict) else str(value) for key, value in settings.items()}
    run = subprocess.run(
        ["node", "tests/load.cjs", cloud, json.dumps(config), stack],
        cwd=INFRA,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    loaded = json.loads(run.stdout)
    assert loaded["exported"] == ["outputs"]
    assert loaded["registered"] > (5 if cloud == "dns" else 25)
