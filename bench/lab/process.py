"""A child process on chosen processors, its CPU time and its memory."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

PR_SET_PDEATHSIG = 1
TICK = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """One program with all its children, pinned to `cpus`, its output in a file."""

    def __init__(self, command: list[str], log: Path, cpus: set[int], env: dict[str, str] | None = None) -> None:
        def prepare() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.sched_setaffinity(0, cpus)

        self.command = command
        self.log = log
        self.began = time.monotonic()
        # Seconds from the start to the first good answer.
        self.ready_after: float | None = None
        with log.open("ab") as output:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                preexec_fn=prepare,
            )

    def wait_for(self, url: str, within: float = 30) -> None:
        """Waits until `url` answers with a status below 500."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            assert self.child.poll() is None, f"{self.command[0]} ended:\n{self.log.read_text()[-2000:]}"
            try:
                urllib.request.urlopen(url, timeout=1).close()  # noqa: S310 (only this program's own addresses)
                self.ready_after = time.monotonic() - self.began
                return
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    self.ready_after = time.monotonic() - self.began
                    return
            except OSError:
                pass
            time.sleep(0.002)
        raise TimeoutError(f"{self.command[0]} does not answer at {url}:\n{self.log.read_text()[-2000:]}")

    def _pids(self) -> list[int]:
        pids, seen = [self.child.pid], []
        while pids:
            pid = pids.pop()
            seen.append(pid)
            for task in Path(f"/proc/{pid}/task").iterdir():
                pids += [int(child) for child in (task / "children").read_text().split()]
        return seen

    def cpu_seconds(self) -> float:
        """User and system time of the process and its children."""
        ticks = 0
        for pid in self._pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICK

    def memory_mb(self) -> float:
        """Resident memory of the process and its children; shared pages are counted once, by their share."""
        total = 0
        for pid in self._pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    def peak_mb(self) -> float:
        """The most resident memory each process of it had at once, added up."""
        total = 0
        for pid in self._pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1])
        return total / 1024

    def stop(self) -> None:
        """Ends it, politely first."""
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait(10)
