"""The image: its file is sound, and lets in what the build needs and nothing else.

Nothing is built here, which would need a container engine: what such a build could fail on is compared.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from charts import CHARTS, ROOT

FOLDER = ROOT / "deploy/docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
IGNORED = [line for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]


def _is_let_in(path: str) -> bool:
    """Docker's rule: the last pattern that fits a path, or a folder it lies in, decides."""
    let_in = True
    parts = Path(path).parts
    ways = ["/".join(parts[: length + 1]) for length in range(len(parts))]
    for line in IGNORED:
        pattern = line.lstrip("!")
        bare = pattern.removeprefix("**/")
        fits = pattern == "**" or any(
            fnmatch.fnmatch(way, pattern) and way.count("/") == pattern.count("/") for way in ways
        )
        if fits or (pattern != bare and any(fnmatch.fnmatch(part, bare) for part in parts)):
            let_in = line.startswith("!")
    return let_in


def _files() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    return [path for path in listed.stdout.splitlines() if (ROOT / path).is_file()]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.prefix) / "bin/hadolint"
    run = subprocess.run([hadolint, FOLDER / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout


def test_the_toolchain_and_the_version_are_the_repository_s() -> None:
    toolchain = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    assert f"ARG RUST_VERSION={toolchain}\n" in DOCKERFILE
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert f"ARG VERSION={version}\n" in DOCKERFILE
    for chart in ("router", "llm-server"):
        assert f"appVersion: {version}\n" in (CHARTS / chart / "Chart.yaml").read_text()


def test_the_build_gets_every_source_and_nothing_else(tmp_path: Path) -> None:
    files = _files()
    assert "Cargo.lock" in files
    let_in = [path for path in files if _is_let_in(path)]
    stray = [
        path for path in let_in if path.split("/")[0] in ("docs", "infra", "charts", "deploy", "fuzz", ".git", "target")
    ]
    assert not stray
    for path in let_in:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    # Cargo reads all manifests and finds every target's file, or refuses.
    command = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    targets = [target for package in json.loads(run.stdout)["packages"] for target in package["targets"]]
    assert "llm-router" in {target["name"] for target in targets if "bin" in target["kind"]}
    assert not [target["src_path"] for target in targets if not Path(target["src_path"]).exists()]


def test_the_build_gets_every_file_that_the_sources_embed() -> None:
    missing = []
    for path in _files():
        if not path.endswith(".rs") or not path.startswith(("src/", "logic/src/", "actors/src/")):
            continue
        if re.search(r"(_tests?|/tests?|/tests/.*)\.rs$", path):
            continue
        source = (ROOT / path).read_text().partition("#[cfg(test)]\nmod ")[0]
        for named in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source):
            embedded = (ROOT / path).parent.joinpath(named).resolve()
            if not _is_let_in(str(embedded.relative_to(ROOT))):
                missing.append(f"{path}: {named}")
    assert not missing


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("runs as a user without a name", r"^USER 65532:65532$"),
        ("has no shell", r"^ARG RUNTIME=gcr\.io/distroless/"),
        ("builds what the lock file says", r"cargo auditable build --release --locked"),
        ("has a bill of materials of its crates", r"^ARG BUILDKIT_SBOM_SCAN_STAGE=true$"),
        ("ends on the signal that drains", r"^STOPSIGNAL SIGTERM$"),
        ("is one program", r'^ENTRYPOINT \["/usr/local/bin/llm-router"\]$'),
    ],
)
def test_the_image(what: str, pattern: str) -> None:
    assert re.search(pattern, DOCKERFILE, re.MULTILINE), what


def test_the_default_command_is_one_of_the_binary_s(llm_router: Path) -> None:
    (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    name, option, _ = json.loads(command)
    run = subprocess.run([llm_router, name, "--help"], capture_output=True, text=True, timeout=20, check=True)
    assert option in run.stdout
