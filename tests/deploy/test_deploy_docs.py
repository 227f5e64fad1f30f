"""docs/DEPLOY.md: what it links to exists, what it tells to run can be run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "DEPLOY.md", ROOT / "deploy" / "dns" / "README.md", ROOT / "infra" / "README.md"]
SCRIPTS = ROOT / "deploy" / "scripts"
PLATFORM = json.loads((ROOT / "infra" / "common" / "platform.json").read_text())


def commands(page: Path) -> list[list[str]]:
    """Every command of the page's blocks, continued lines joined, words split as a shell does."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if line.strip() and not line.strip().startswith("#"):
                found.append(shlex.split(line.strip(), comments=True))
    return found


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"`((?:infra|deploy|charts|docs|tests)/[A-Za-z0-9_./-]+)`", page.read_text())
    assert named
    # Recorded when the stacks are made, so not here.
    for path in set(named) - {"infra/common/outputs.prod.json"}:
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def scripts_named() -> list[list[str]]:
    """The scripts' calls, also those inside pipes."""
    found = []
    for page in PAGES:
        for words in commands(page):
            for index, word in enumerate(words):
                if word.startswith("deploy/scripts/"):
                    call = words[index:]
                    ends = [at for at, part in enumerate(call) if part in ("|", "<", "&&", ">")]
                    found.append(call[: ends[0]] if ends else call)
    return found


@pytest.mark.parametrize("call", scripts_named(), ids=" ".join)
def test_every_option_of_a_script_is_one_its_help_tells(call: list[str]) -> None:
    script = ROOT / call[0]
    told = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=20, check=True).stdout
    for word in call[1:]:
        if word.startswith("--"):
            assert word in told, f"{call[0]} {word}"
        elif (
            re.fullmatch(r"(aws|gcp|azure)-[a-z0-9-]+", word)
            and "add-region" not in call[0]
            and "eu-west-1" not in word
        ):
            assert word in PLATFORM["regions"], word


def test_every_step_setup_is_told_to_do_exists() -> None:
    steps = set(re.findall(r"^step_(\w+)\(\)", (SCRIPTS / "setup").read_text(), re.MULTILINE))
    asked = {word for call in scripts_named() if call[0].endswith("/setup") for word in call[1:] if word.isalpha()} - {
        "prod",
        "dev",
        "URL",
    }
    assert asked <= steps
    assert steps - asked <= {"status"} | asked


def test_every_command_of_platformctl_that_is_named_exists() -> None:
    told = subprocess.run(
        [ROOT / "infra" / "platformctl", "--help"], capture_output=True, text=True, timeout=20, check=True
    ).stdout
    for page in PAGES:
        for name in re.findall(r"infra/platformctl ([a-z-]+)", page.read_text()):
            assert re.search(rf"^    {name}\b", told, re.MULTILINE), f"{page.name}: {name}"


def test_every_script_is_told_of() -> None:
    page = (ROOT / "docs" / "DEPLOY.md").read_text()
    for script in SCRIPTS.iterdir():
        if script.suffix == "":
            assert f"{script.name}" in page, script.name


def test_the_numbers_in_the_text_are_those_of_the_shared_file() -> None:
    page = (ROOT / "docs" / "DEPLOY.md").read_text()
    health, gossip = PLATFORM["health"], PLATFORM["gossip"]
    assert f"UDP {gossip['port']}" in page
    assert f"every {health['intervalSeconds']} s; after two failures" in re.sub(r"\s+", " ", page)
    assert health["failures"] == 2
    worst = health["intervalSeconds"] * health["failures"] + health["ttlSeconds"]
    assert f"about {worst} s at worst" in page
    assert f"router.{PLATFORM['domain']}" in page
