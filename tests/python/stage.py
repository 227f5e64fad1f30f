"""Brings processes onto the stage of a test: started, ready, and handed over to its crew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from binary import Service
from llama import LlamaServer
from mock_upstream import Mock
from router import Router
from settings import Settings

if TYPE_CHECKING:
    from conftest import Crew


def llama(crew: Crew, model: Path, name: str, **options: Any) -> LlamaServer:
    """A real llama-server that is loaded and ready."""
    server = LlamaServer(name, model, crew.log(name), **options)
    crew.add(server)
    server.start()
    return server


def mock(crew: Crew, kind: str, **options: Any) -> Mock:
    """A mock upstream that answers."""
    upstream = Mock(kind, crew.log(f"mock-{kind}"), **options)
    crew.add(upstream)
    upstream.start()
    return upstream


def router(crew: Crew, settings: Settings, env: dict[str, str] | None = None) -> Router:
    """A node that is ready, with more in its environment. It must end cleanly when the crew stops."""
    name = settings["node"]["name"]
    log = crew.log(name)
    serving = Router(settings, log.with_suffix(".yaml"), log, env)
    crew.add(serving)
    serving.start()
    return serving


def routers(crew: Crew, all_settings: list[Settings]) -> list[Router]:
    """Several nodes, started one after the other."""
    return [router(crew, settings) for settings in all_settings]


def sidecar(crew: Crew, settings: dict[str, Any]) -> Service:
    """The sidecar, started; whether it is ready only its routes can tell."""
    log = crew.log("sidecar")
    file = log.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({"sidecar": settings}))
    beside = Service("sidecar", ["sidecar", "--config", str(file)], log)
    crew.add(beside)
    beside.start()
    return beside
