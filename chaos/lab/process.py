"""A child process at a place, known by its own pid only, with its output in a file."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .ground import Ground

# All children are of one thread that lives as long as the program: the kernel ends a child with the *thread* it is of.
SPAWNER = ThreadPoolExecutor(1, "spawner")


class Process:
    """One child."""

    def __init__(
        self,
        ground: Ground,
        place: str,
        name: str,
        command: list[str],
        log: Path,
        env: dict[str, str] | None = None,
    ) -> None:
        self.ground = ground
        self.place = place
        self.name = name
        self.command = command
        self.log = log
        self.env = {**os.environ, **(env or {})}
        self.child: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def spawn(self) -> None:
        """Starts it; output is appended to the log."""
        assert not self.running, f"{self.name} runs already"
        SPAWNER.submit(self._spawn).result(30)

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                preexec_fn=self.ground.before_exec(self.place),
            )
        self.starts += 1

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.child is not None and self.child.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.child is not None
        return self.child.pid

    def signal(self, number: int) -> None:
        """Sends a signal to this one process."""
        assert self.child is not None
        self.child.send_signal(number)

    def kill(self) -> None:
        """`kill -9`: no chance to say goodbye."""
        if self.child is None:
            return
        if self.running:
            self.signal(signal.SIGKILL)
        self.child.wait(20)

    def terminate(self, within: float = 30) -> int | None:
        """Asks it to end; its exit code, or nothing if it had to be killed."""
        if self.child is None:
            return 0
        if self.running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        try:
            return self.child.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def output(self) -> str:
        """Everything it printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def memory_kb(self) -> int:
        """Resident memory that no other process shares the pages of as files: anonymous pages."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
        return 0
