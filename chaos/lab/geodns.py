"""A real authoritative name server, gdnsd, that leads clients to the nearest region that is ready.

Its configuration is the one that operators get (`infra/platformctl geodns`): only the file of regions is one of the
laboratory's, and the probe reaches a region's `/readyz` by its address, since nobody here serves the
regions' own zones.
"""

from __future__ import annotations

import re
import shutil
import socket
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .dns import cname
from .fleet import API
from .process import Process
from .waiting import eventually

if TYPE_CHECKING:
    from .stage import Stage

ROOT = Path(__file__).resolve().parents[2]
PLACE = "names"
PORT = 5353
# What clients ask for, and the platform's regions that stand for the laboratory's: one per cloud.
REGIONS = ["aws-us-west-2", "gcp-us-central1", "azure-eastus"]


class GeoDns(Process):
    """gdnsd at a place of its own. Clients of region N ask from the network of place `clients-N`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.server = stage.ground.places[PLACE].address()
        folder = stage.folder / "gdnsd"
        # Its control socket's address is short; a folder of results may lie deep.
        self.short = tempfile.TemporaryDirectory(prefix="gdnsd")
        state = Path(self.short.name)
        for name in ("run", "lib"):
            (state / name).mkdir(parents=True)
        nets = stage.folder / "nets"
        nets.write_text("".join(self._near(index) for index in range(3)))
        done = subprocess.run(
            [
                *(str(ROOT / "infra" / "platformctl"), "--outputs", str(stage.folder), "geodns", "--env", "prod"),
                *("--into", str(folder), "--server", "ns1.example.net", "--nets", str(nets)),
                *("--listen", f"{self.server}:{PORT}", "--state", str(state), "--probe", str(self._probe())),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        config = folder / "config"
        # Production asks every 30 s; a test does not wait for half minutes.
        text = re.sub(r"interval => \d+", "interval => 2", config.read_text())
        config.write_text(re.sub(r"timeout => \d+", "timeout => 1", text))
        self.zone = next((folder / "zones").iterdir()).name
        self.host = re.search(r"resources => \{\s+(\S+) =>", text)[1]
        program = shutil.which("gdnsd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        assert program, "gdnsd is not installed"
        super().__init__(
            stage.ground, PLACE, "gdnsd", [program, "-c", str(folder), "start"], stage.folder / "gdnsd.log"
        )

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.spawn()
        self.stage.also += [self.kill, self.short.cleanup]
        eventually(lambda: self.resolve("clients-0"), 30, "gdnsd answers")

    def resolve(self, place: str) -> str | None:
        """The region that clients at a place are led to, by its key in the platform's file."""
        name = self.ask(place, f"{self.host}.{self.zone}")
        return next((region for region in REGIONS if f".{region}." in f".{name}."), None)

    def ask(self, place: str, name: str) -> str:
        """The name the server answers with, over UDP; a reader of one CNAME and no more."""
        with self.stage.ground.socket(place, socket.SOCK_DGRAM) as line:
            line.settimeout(1)
            return cname(line, (self.server, PORT), name)

    def _near(self, index: int) -> str:
        """Clients of a region's network, and the regions nearest to them first."""
        nearest = [REGIONS[(index + step) % 3] for step in range(3)]
        return f"{self._network(index)} => [ {', '.join(nearest)} ],\n"

    def _network(self, index: int) -> str:
        place = self.stage.ground.places[f"clients-{index}"]
        return f"{place.prefix}.0/24" if self.stage.ground.kind == "namespaces" else f"{place.address()}/32"

    def _probe(self) -> Path:
        """curl for somebody without names: the same question to the region's router by its address."""
        lines = ["#!/bin/sh", "for last; do :; done", 'case "$last" in']
        for region, router in zip(REGIONS, self.stage.routers, strict=False):
            asked = f"http://{router.host}:{API}/readyz"
            lines.append(f'*.{region}.*) exec curl -fsS -o /dev/null --max-time 1 "{asked}" ;;')
        file = self.stage.folder / "probe"
        file.write_text("\n".join([*lines, "esac", "exit 1"]) + "\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return file
