"""One emulator of all providers and one node in front of it; every request is held to the vendors' own
specifications, and no test passes before the emulator's verdict was read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import accounts
import pytest
import settings
import stage
from dialects import DIALECTS
from provider_emulator import Emulator
from router import Router
from specifications import Specifications


@pytest.fixture(scope="session")
def specifications() -> Specifications:
    """The vendors' specifications, read once."""
    return Specifications()


@pytest.fixture(scope="session")
def running_emulator(session_crew) -> Emulator:
    """The emulator that all tests share."""
    emulator = Emulator(session_crew.log("llmock"))
    session_crew.add(emulator)
    emulator.start()
    return emulator


@dataclass
class Verdict:
    """What the emulator's verdict on the router may hold in a test: nothing, or what the test explains."""

    explained: set[str] = field(default_factory=set)

    def explain(self, code: str, why: str) -> None:
        """Allows a finding that is no fault of the router, and says why."""
        assert why
        self.explained.add(code)


@pytest.fixture
def verdict() -> Verdict:
    """What the verdict of this test may say."""
    return Verdict()


@pytest.fixture
def emulator(running_emulator, specifications, verdict) -> Iterator[Emulator]:
    """The emulator without a memory; afterwards its verdict and the specifications are asked."""
    running_emulator.reset()
    yield running_emulator
    assert set(running_emulator.findings()) <= verdict.explained, running_emulator.report()
    complaints = [text for request in running_emulator.requests() for text in specifications.complaints(request)]
    assert not complaints, "\n".join(complaints)


@pytest.fixture(scope="session")
def router(session_crew, running_emulator) -> Router:
    """A node whose every provider is emulated."""
    timeouts = dict.fromkeys(("firstByte", "wholeAnswer", "idle"), f"{accounts.PATIENCE}s")
    node = settings.node("emulated", providers=accounts.accounts(running_emulator), timeouts=timeouts)
    return stage.router(session_crew, node)


@pytest.fixture(params=accounts.KINDS)
def kind(request) -> str:
    """Each kind of provider in turn."""
    return request.param


@pytest.fixture(params=list(DIALECTS))
def dialect(request):
    """Each dialect of a client in turn."""
    return DIALECTS[request.param]
