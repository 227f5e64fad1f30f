"""Where processes stand: network namespaces joined by the switch or, where those cannot be made, loopback addresses.

A *place* is a region's network, a provider's, or clients'. In namespaces each place has one device, and the switch
decides what happens between any two of them. On loopback each place is an address of 127/8, and nothing happens
between them: scenarios that need a wide area network say so and are not run there.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .waiting import eventually

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
RUN = Path("/run/netns")
DEVICE = "wan0"
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Place:
    """A network of its own. All addresses of its /24 are at home there."""

    name: str
    prefix: str

    def address(self, host: int = 1) -> str:
        """One of its addresses."""
        return f"{self.prefix}.{host}"


class Ground:
    """Places, and what happens to packets between them."""

    kind: str

    def __init__(self, places: dict[str, Place]) -> None:
        self.places = places

    def socket(self, place: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A new socket that stands at a place."""
        raise NotImplementedError

    def before_exec(self, place: str) -> Callable[[], None]:
        """What a child does to stand at a place. The kernel ends it should this program die."""
        raise NotImplementedError

    def link(self, start: str, end: str, **rules: Any) -> None:
        """Changes what happens to packets from one place to another; `*` stands for all."""
        message = f"no wide area network on loopback: {start} to {end} cannot be {rules}"
        raise NeedsWanError(message)

    def traffic(self) -> list[dict[str, Any]]:
        """What passed on each link so far."""
        return []

    def both(self, one: str, other: str, **rules: Any) -> None:
        """The same rules in both directions."""
        self.link(one, other, **rules)
        self.link(other, one, **rules)

    def wan(self, places: list[str], *, rtt_ms: float, loss: float = 0, jitter_ms: float = 0) -> None:
        """These places are that far from each other."""
        for one in places:
            for other in places:
                if one != other:
                    self.link(
                        one, other, delay_us=int(rtt_ms * 500), jitter_us=int(jitter_ms * 500), loss=loss, clear=True
                    )

    def close(self) -> None:
        """Takes everything down."""


class NeedsWanError(RuntimeError):
    """Asked of a ground that cannot do it."""


class Loopback(Ground):
    """Every place is an address of this machine."""

    kind = "loopback"

    def __init__(self, names: list[str], first: int) -> None:
        # Runs at the same time, as in a test suite, take addresses of their own.
        super().__init__({name: Place(name, f"127.{first}.{index + 1}") for index, name in enumerate(names)})

    def socket(self, place: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A new socket with the place's address."""
        made = socket.socket(socket.AF_INET, kind)
        made.bind((self.places[place].address(), 0))
        return made

    def before_exec(self, place: str) -> Callable[[], None]:  # noqa: ARG002 - a place is only an address here
        """Nothing but the bond to this program."""
        return die_with_parent


class Namespaces(Ground):
    """Every place is a network namespace; the switch joins them."""

    kind = "namespaces"

    def __init__(self, names: list[str], switch: str, folder: Path) -> None:
        super().__init__({name: Place(name, f"10.77.{index + 1}") for index, name in enumerate(names)})
        self._lock = threading.Lock()
        self._made: list[str] = []
        self._names = {name: f"chaos{os.getpid()}-{index}" for index, name in enumerate(names)}
        # The address of a Unix socket is short; a folder of results may lie deep.
        self._short = tempfile.TemporaryDirectory(prefix="chaos")
        self._path = Path(self._short.name) / "switch.sock"
        self._switch: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._namespaces: dict[str, int] = {}
        sweep()
        try:
            self._make(switch, folder)
        except BaseException:
            self.close()
            raise

    def _make(self, switch: str, folder: Path) -> None:
        command = [switch, "--socket", str(self._path)]
        for name, place in self.places.items():
            namespace = self._names[name]
            ip("netns", "add", namespace)
            self._made.append(namespace)
            self._namespaces[name] = os.open(RUN / namespace, os.O_RDONLY)
            command += ["--port", f"{name}={RUN / namespace},{DEVICE},{place.prefix}.0/24"]
        with (folder / "switch.log").open("wb") as log:
            self._switch = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        eventually(lambda: b"ready" in (folder / "switch.log").read_bytes(), 10, "the switch stands")
        for name, place in self.places.items():
            namespace = self._names[name]
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "addr", "add", f"{place.address()}/32", "dev", DEVICE)
            ip("-n", namespace, "link", "set", DEVICE, "up")
            ip("-n", namespace, "route", "add", "default", "dev", DEVICE, "src", place.address())
            ip("-n", namespace, "route", "add", "local", f"{place.prefix}.0/24", "dev", "lo")
        self._control = socket.socket(socket.AF_UNIX)
        self._control.settimeout(10)
        self._control.connect(str(self._path))

    def socket(self, place: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A new socket inside the namespace: it stays there, this thread does not."""
        with self._entered(place):
            return socket.socket(socket.AF_INET, kind)

    def before_exec(self, place: str) -> Callable[[], None]:
        """Enters the namespace."""
        namespace = self._namespaces[place]

        def enter() -> None:
            die_with_parent()
            if LIBC.setns(namespace, CLONE_NEWNET) != 0:
                os._exit(71)

        return enter

    def link(self, start: str, end: str, **rules: Any) -> None:
        """Tells the switch."""
        self._say({"set": [{"from": start, "to": end, **rules}]})

    def traffic(self) -> list[dict[str, Any]]:
        """Asks the switch."""
        return self._say({"stats": True})["links"]

    def close(self) -> None:
        """Ends the switch and takes the namespaces away."""
        if self._control is not None:
            self._control.close()
        if self._switch is not None:
            self._switch.kill()
            self._switch.wait(10)
        for namespace in self._namespaces.values():
            os.close(namespace)
        self._namespaces.clear()
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=20)
        self._made.clear()
        self._short.cleanup()

    @contextlib.contextmanager
    def _entered(self, place: str) -> Iterator[None]:
        home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        try:
            _set_namespace(self._namespaces[place])
            try:
                yield
            finally:
                _set_namespace(home)
        finally:
            os.close(home)

    def _say(self, words: dict[str, Any]) -> dict[str, Any]:
        assert self._control is not None
        with self._lock:
            self._control.sendall(json.dumps(words).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                piece = self._control.recv(1 << 20)
                if not piece:
                    message = "the switch has ended"
                    raise ConnectionError(message)
                answer += piece
        told = json.loads(answer)
        if "error" in told:
            raise ValueError(told["error"])
        return told


def _set_namespace(descriptor: int) -> None:
    if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def die_with_parent() -> None:
    """Runs in a child: if this program is killed, the kernel ends the child too."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ip(*words: str) -> None:
    """Runs iproute2."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        message = f"ip {' '.join(words)}: {done.stderr.strip()}"
        raise OSError(message)


def sweep() -> None:
    """Takes away the namespaces of runs whose program is gone."""
    for path in RUN.glob("chaos*-*") if RUN.exists() else []:
        owner = re.fullmatch(r"chaos(\d+)-\d+", path.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            subprocess.run(["ip", "netns", "del", path.name], check=False, capture_output=True, timeout=20)


def why_no_namespaces() -> str | None:
    """Why namespaces cannot be made here; nothing if they can."""
    if sys.platform != "linux":
        return "not Linux"
    if os.geteuid() != 0:
        return "not root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun"
    name = f"chaos{os.getpid()}-999"
    try:
        ip("netns", "add", name)
        ip("netns", "del", name)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None


def stand(names: list[str], folder: Path, switch: Callable[[], str], wanted: str = "auto") -> tuple[Ground, str | None]:
    """The best ground there is, and why it is not a better one."""
    why = "asked for" if wanted == "loopback" else why_no_namespaces()
    if why is None:
        return Namespaces(names, switch(), folder), None
    if wanted == "namespaces":
        message = f"network namespaces cannot be made: {why}"
        raise NeedsWanError(message)
    return Loopback(names, 64 + os.getpid() % 128), why
