"""Real processes of one test: started on free ports, waited for, stopped by their own pids."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def eventually(condition: Callable[[], bool], within: float, what: Callable[[], str] | str) -> None:
    """Waits until something is so; where it does not become so in `within` seconds, says what."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            message = f"not within {within} s: {what() if callable(what) else what}"
            raise AssertionError(message)
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of a page of this machine; status 0 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=3) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def send(port: int, method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None) -> int:
    """Sends something to this machine, reads the whole answer and returns its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def metric(port: int, name: str) -> str:
    """The value of a metric without labels, as text; empty where it is not there."""
    _, text = get(port, "/metrics")
    return next((line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")), "")


class Processes:
    """What a test has started. Everything is stopped when the test ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(
        self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts one, its output in a file beside the others'."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def said(self) -> str:
        """The end of everything they have written, for messages."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in self.folder.glob("*.log"))

    def stop(self) -> None:
        """Ends all, the youngest first."""
        for process in reversed(self.started):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=5)
