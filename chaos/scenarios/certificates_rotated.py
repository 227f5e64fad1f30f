"""The cluster's authority is replaced while clients stream."""

from __future__ import annotations

import shutil
import subprocess

from lab.relay_door import serial_number, strangers_are_refused
from lab.stage import Scenario, Stage

# Files are read every two seconds; the old certificates are listened to for five.
TAKEN_UP = 20


def run(stage: Stage) -> None:
    """The three steps of docs/CERTS.md, each on all nodes before the next."""
    stage.far()
    stage.load(rate=6)
    stage.load(rate=1, max_tokens=600, stream_share=1)
    fleet, folder = stage.fleet, stage.folder
    stage.rest(3)
    before = {router.name: serial_number(stage, router) for router in stage.routers}
    deaths = sum(router.output().count("live=false") for router in stage.routers)

    stage.note("a second authority is trusted")
    old = folder / "certificates-old"
    shutil.copytree(fleet.certificates, old)
    subprocess.run(
        [fleet.binary, "certs", "init", "--dir", str(folder / "second"), "--cluster-id", "chaos"],
        check=True,
        capture_output=True,
        timeout=30,
    )
    authorities = [(folder / name / "ca.pem").read_text() for name in ("authority", "second")]
    put(fleet.certificates / "ca.pem", "".join(authorities))
    stage.rest(8)

    stage.note("new certificates")
    for router in stage.routers:
        fleet.issue(router.name, authority="second")
    # `certs issue` lays its own authority beside the certificate.
    put(fleet.certificates / "ca.pem", "".join(authorities))
    stage.seconds_until(
        lambda: all(serial_number(stage, router) != before[router.name] for router in stage.routers),
        TAKEN_UP,
        "every router shows its new certificate",
        0.5,
    )
    stage.rest(8)

    stage.note("the first authority is trusted no more")
    put(fleet.certificates / "ca.pem", authorities[1])
    stage.seconds_until(
        lambda: strangers_are_refused(stage, stage.routers[0], old / f"{stage.routers[1].name}"),
        TAKEN_UP,
        "a certificate of the first authority is refused",
        0.5,
    )
    stage.rest(6)
    lost = sum(router.output().count("live=false") for router in stage.routers) - deaths
    stage.at_most("routers taken for dead meanwhile", lost, 0)
    missed = sum(attempt.outcome != "answered" for attempt in stage.attempts() if attempt.ended_at)
    stage.at_most("requests and streams not answered whole", missed, 0)


def put(file, text: str) -> None:
    """Replaces a file by a rename."""
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(file)


SCENARIO = Scenario(
    what="The authority of the cluster is replaced in the three steps of docs/CERTS.md while clients stream.",
    expected="No peer is lost, no stream cut; new certificates are shown; the old authority is refused at the end.",
    bound="0 peers lost, 0 requests lost, new certificate on every router ≤ 20 s, old one refused ≤ 20 s",
    run=run,
    wan=True,
    quick=True,
)
