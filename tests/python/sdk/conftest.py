"""One node for all official clients, with a mock of each kind of backend behind it."""

from __future__ import annotations

import pytest
import settings
import stage

PROVIDER_TYPES = {"openai": "openai", "anthropic": "claude", "gemini": "gemini"}
KINDS = ["llama", *PROVIDER_TYPES]
CAPABILITIES = ["chat", "completion", "embedding", "vision", "tools", "json"]


@pytest.fixture(scope="session")
def mocks(session_crew):
    """A mock of each kind."""
    return {kind: stage.mock(session_crew, kind, model=f"{kind}-model", slots=32) for kind in KINDS}


@pytest.fixture(scope="session")
def router(session_crew, mocks):
    """The node in front of all mocks."""
    providers = [
        settings.provider(kind, mocks[kind].url, f"{kind}-model", word, capabilities=CAPABILITIES)
        for kind, word in PROVIDER_TYPES.items()
    ]
    clusters = [settings.cluster("llama", mocks["llama"].url, "llama-model", capabilities=CAPABILITIES)]
    router = stage.router(session_crew, settings.node(clusters=clusters, providers=providers))
    router.wait_for_health("llama", "healthy")
    return router


@pytest.fixture(params=KINDS)
def kind(request):
    """Each kind of backend in turn."""
    return request.param


@pytest.fixture
def model(kind):
    """A model that only the backend of this kind serves."""
    return f"{kind}-model"


@pytest.fixture
def upstream(mocks, kind):
    """The mock of this kind, without faults before and after."""
    yield mocks[kind]
    mocks[kind].set_faults([])
