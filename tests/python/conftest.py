"""Fixtures: real processes, each stopped by its own pid, their logs shown when a test fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import canary
import pytest
import tiny_gguf
from process import Process

LOG_LINES_SHOWN = 40


class Crew:
    """The processes of one test or module: everything started through it is stopped with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []

    def log(self, name: str) -> Path:
        """A log file nobody else writes to."""
        return self.folder / f"{len(self.processes):02}-{name}.log"

    def add(self, process: Process) -> None:
        """Takes over the end of a process, whatever happens to its start."""
        self.processes.append(process)

    def stop(self) -> list[str]:
        """Stops all, the youngest first, and returns what was wrong with how they ended."""
        complaints = []
        for process in reversed(self.processes):
            try:
                process.stop()
            except AssertionError as error:
                complaints.append(str(error))
            finally:
                process.kill()
        # What no process of any test may print, in this and every other test.
        outputs = {f"{process.name} ({process.log})": process.output().encode() for process in self.processes}
        return complaints + canary.found(outputs)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model files, made once per run."""
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_gguf.write(shape, folder / f"{name}.gguf") for name, shape in tiny_gguf.SHAPES.items()}


def _crew(folder: Path, request: pytest.FixtureRequest) -> Iterator[Crew]:
    crew = Crew(folder)
    request.config.stash.setdefault(CREWS, []).append(crew)
    yield crew
    complaints = crew.stop()
    request.config.stash[CREWS].remove(crew)
    assert not complaints, "\n".join(complaints)


CREWS = pytest.StashKey[list[Crew]]()


@pytest.fixture
def crew(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Crew]:
    """Processes that live as long as one test."""
    yield from _crew(tmp_path, request)


@pytest.fixture(scope="module")
def module_crew(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Crew]:
    """Processes that all tests of a module share."""
    yield from _crew(tmp_path_factory.mktemp(request.module.__name__), request)


@pytest.fixture(scope="session")
def session_crew(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Crew]:
    """Processes that several modules share."""
    yield from _crew(tmp_path_factory.mktemp("session"), request)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Shows the end of the log of every process that a failed test could have used."""
    report = yield
    if report.failed:
        for crew in item.config.stash.get(CREWS, []):
            for process in crew.processes:
                lines = process.output().splitlines()[-LOG_LINES_SHOWN:]
                state = "running" if process.running else f"ended with {process.exit_code}"
                report.sections.append((f"{process.name} ({state}): {process.log}", "\n".join(lines)))
    return report
