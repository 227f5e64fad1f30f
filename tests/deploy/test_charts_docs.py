"""What the pages about deploying say exists: links, commands of the binary, values of the charts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from charts import ROOT

FOLDERS = ("charts/*", "deploy/docker", "deploy/compose", "deploy/systemd")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_of_the_repository_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"\b((?:charts|deploy|tests|docs|config)/[A-Za-z0-9_./-]+\.[a-z]+)", page.read_text())
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_the_binary_exists(page: Path, llm_router: Path) -> None:
    for words in set(re.findall(r"(?:^\s*|`)llm-router ((?:[a-z]+ ?){1,2})", page.read_text(), re.MULTILINE)):
        command = words.split()[:2] if words.startswith("certs") else words.split()[:1]
        run = subprocess.run([llm_router, *command, "--help"], capture_output=True, text=True, timeout=20, check=False)
        assert run.returncode == 0, f"`llm-router {' '.join(command)}`: {run.stderr}"
