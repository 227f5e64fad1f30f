"""What a running process gives away of its memory: nothing, unless it is told to."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import binary
import pytest
from process import free_port
from waiting import eventually

NOBODY = 65534


@pytest.fixture
def program():
    """The binary where any user may run it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        copy = Path(folder) / "llm-router"
        shutil.copy(binary.binary(), copy)
        copy.chmod(0o755)
        yield copy


@pytest.mark.parametrize("switch", [None, "on"])
def test_core_dumps_are_off_and_memory_is_private_unless_switched_on(program, switch):
    environment = {"PATH": os.environ["PATH"]} | ({"LLM_ROUTER_CORE_DUMPS": switch} if switch else {})
    command = [program, "mock", "--kind", "openai", "--listen", f"127.0.0.1:{free_port()}"]
    user = NOBODY if os.getuid() == 0 else None
    process = subprocess.Popen(command, env=environment, user=user, stderr=subprocess.PIPE, cwd="/")
    try:
        folder = Path(f"/proc/{process.pid}")
        line = process.stderr.readline()
        while line and b"listening" not in line:
            line = process.stderr.readline()
        # The files of a process that may not be dumped belong to root (proc(5)).
        expected = 0 if switch is None else (NOBODY if user else os.getuid())
        eventually(lambda: (folder / "environ").stat().st_uid == expected, 5, f"owned by {expected}")
        if switch is None:
            limits = (folder / "limits").read_text().splitlines()
            core = next(line for line in limits if line.startswith("Max core file size"))
            assert core.split()[4:6] == ["0", "0"], core
    finally:
        process.terminate()
        assert process.wait(10) == 0
