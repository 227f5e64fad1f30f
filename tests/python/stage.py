"""Brings processes onto the stage of a test: started, ready, and handed over to its crew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama import LlamaServer

if TYPE_CHECKING:
    from conftest import Crew


def llama(crew: Crew, model: Path, name: str, **options) -> LlamaServer:
    """A real llama-server that is loaded and ready."""
    server = LlamaServer(name, model, crew.log(name), **options)
    crew.add(server)
    server.start()
    return server
