"""Starting, watching and ending the processes under test. Each is known by its own pid only."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

from waiting import eventually

PR_SET_PDEATHSIG = 1


# Below the range from which systems take the ports of outgoing connections: a port found free stays
# free until the process under test binds it, and again over its restart.
PORTS = range(18_000, 32_000)
_given: set[int] = set()


def free_port() -> int:
    """A loopback port, for TCP and UDP, that nobody uses and no other test was given."""
    return free_port_run(1)


def free_port_run(length: int) -> int:
    """The first of `length` consecutive ports, each as `free_port` gives them."""
    for _ in range(500):
        first = random.choice(PORTS)
        ports = range(first, first + length)
        if _given.isdisjoint(ports) and all(_is_free(port) for port in ports):
            _given.update(ports)
            return first
    raise RuntimeError(f"no {length} consecutive free ports in {PORTS}")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def _die_with_parent() -> None:
    """Runs in the child: if pytest itself is killed, the kernel ends the child too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One child process with its output in a file."""

    def __init__(self, name: str, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.command = command
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process; its output is appended to the log."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._child is not None, f"{self.name} was never started"
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code once it has ended; negative for a signal."""
        return None if self._child is None else self._child.poll()

    def output(self) -> str:
        """Everything it printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to this one process."""
        assert self._child is not None
        self._child.send_signal(number)

    def wait(self, within: float) -> int:
        """Waits for its end and returns the exit code."""
        assert self._child is not None
        try:
            return self._child.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} (pid {self.pid}) did not end within {within} s") from None

    def terminate(self, within: float = 15.0) -> int:
        """Asks it to end (SIGTERM) and returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within)

    def stop(self) -> None:
        """The end of its part in a test; those that must end well say so in their own `stop`."""
        self.kill()

    def kill(self) -> None:
        """`kill -9`: no chance to say goodbye."""
        if self.running:
            self.signal(signal.SIGKILL)
        if self._child is not None:
            self._child.wait(10)

    def expect_running(self) -> None:
        """Fails with its last words if it has ended."""
        if not self.running:
            tail = "\n".join(self.output().splitlines()[-25:])
            raise AssertionError(f"{self.name} ended with code {self.exit_code}:\n{tail}")

    def wait_until(self, condition, within: float, what: str) -> None:
        """Waits for `condition` for as long as the process lives."""

        def look() -> bool:
            return not self.running or bool(condition())

        eventually(look, within, f"{self.name}: {what}")
        self.expect_running()
