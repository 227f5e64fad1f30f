"""GeoDNS of one's own: real gdnsd with the made configuration, only the probe of a region replaced."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.dns import cname
from live import eventually, free_port

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = json.loads((ROOT / "infra" / "common" / "platform.json").read_text())
REGIONS = list(PLATFORM["regions"])
GDNSD = shutil.which("gdnsd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
NAME = f"{PLATFORM['health']['host']}.geo.{PLATFORM['domain']}"
# Clients here come from loopback; this region is called the nearest to it.
NEAR = "gcp-us-central1"


def write(folder: Path, *more: str, outputs: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Writes gdnsd's folder."""
    command = [str(ROOT / "infra" / "platformctl"), "--outputs", str(outputs or folder), "geodns", "--env", "prod"]
    return subprocess.run(
        [*command, "--into", str(folder), *more], capture_output=True, text=True, timeout=30, check=False
    )


def ask(port: int, name: str) -> str:
    """The name a server answers with, over UDP; a reader of one CNAME and no more."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.settimeout(2)
        return cname(line, ("127.0.0.1", port), name)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A running gdnsd, and the folder in which a region is ready while a file of its name lies there."""
    if GDNSD is None:
        pytest.skip("gdnsd is not installed (Debian: apt-get install gdnsd)")
    ready = tmp_path / "ready"
    ready.mkdir()
    for key in REGIONS:
        (ready / key).touch()
    probe = tmp_path / "probe"
    probe.write_text(
        f'#!/bin/sh\nfor last; do :; done\nkey=${{last#https://*.}}\nexec test -e "{ready}/${{key%%.*}}"\n'
    )
    probe.chmod(0o755)
    nets = tmp_path / "nets"
    others = [key for key in REGIONS if key != NEAR]
    nets.write_text(f"127.0.0.0/8 => [ {', '.join([NEAR, *others])} ],\n")
    port = free_port()
    folder = tmp_path / "gdnsd"
    for name in ("run", "lib"):
        (tmp_path / "state" / name).mkdir(parents=True)
    run = write(
        folder,
        *("--server", "ns1.example.net", "--nets", str(nets), "--listen", f"127.0.0.1:{port}"),
        *("--state", str(tmp_path / "state"), "--probe", str(probe)),
    )
    assert run.returncode == 0, run.stderr
    # A test does not wait for half minutes.
    config = folder / "config"
    config.write_text(
        re.sub(r"interval => \d+", "interval => 2", re.sub(r"timeout => \d+", "timeout => 1", config.read_text()))
    )
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen([GDNSD, "-c", str(folder), "start"], stdout=log, stderr=log) as process,
    ):
        try:

            def answers() -> bool:
                with contextlib.suppress(OSError):
                    return bool(ask(port, NAME))
                return False

            eventually(answers, 20, lambda: f"gdnsd answers: {(tmp_path / 'log').read_text()}")
            yield port, ready
        finally:
            process.terminate()
            process.wait(timeout=15)


def regional(key: str) -> str:
    """The name of a region's own routers."""
    return f"{PLATFORM['health']['host']}.{key}.{PLATFORM['domain']}"


def test_clients_are_led_to_the_nearest_ready_region_and_back_when_it_returns(server: tuple[int, Path]) -> None:
    port, ready = server
    eventually(lambda: ask(port, NAME) == regional(NEAR), 20, "the nearest region is answered")
    (ready / NEAR).unlink()
    second = next(key for key in REGIONS if key != NEAR)
    eventually(lambda: ask(port, NAME) == regional(second), 20, "the next region is answered")
    (ready / NEAR).touch()
    eventually(lambda: ask(port, NAME) == regional(NEAR), 20, "the region is answered again")


def test_the_probe_asks_the_region_s_own_name_whether_it_is_ready(tmp_path: Path) -> None:
    run = write(tmp_path, "--server", "ns1.example.net", "--nets", "nets")
    assert run.returncode == 0, run.stderr
    config = (tmp_path / "config").read_text()
    assert '"https://%%ITEM%%:443/readyz"' in config
    for key in REGIONS:
        assert f"{key} => {regional(key)}.," in config


def test_regions_zones_are_delegated_to_the_servers_their_stacks_put_out(tmp_path: Path) -> None:
    run = write(tmp_path, "--server", "ns1.example.net", "--database", "city.mmdb", outputs=ROOT / "infra" / "tests")
    assert run.returncode == 0, run.stderr
    zone = (tmp_path / "parent.zone").read_text()
    assert f"aws-us-west-2.{PLATFORM['domain']}. 3600 IN NS ns-1.example.net." in zone
    assert f"router.{PLATFORM['domain']}. 3600 IN CNAME {NAME}." in zone
    assert f"geo.{PLATFORM['domain']}. 3600 IN NS ns1.example.net." in zone
    config = (tmp_path / "config").read_text()
    assert "aws-us-west-2 => [ 45.87, -119.69 ]," in config and 'geoip2_db => "city.mmdb"' in config


def test_a_server_without_a_way_to_tell_nearness_is_refused(tmp_path: Path) -> None:
    run = write(tmp_path, "--server", "ns1.example.net")
    assert run.returncode == 64
    assert "--database" in run.stderr and "--nets" in run.stderr
