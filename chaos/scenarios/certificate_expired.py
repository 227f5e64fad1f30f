"""A router is started again with an expired certificate."""

from __future__ import annotations

import os
import subprocess

from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """Its certificate is replaced by one that held until two months ago."""
    victim = stage.routers[0]
    load = stage.load(rate=12, retry_elsewhere=True)
    stage.rest(2)
    index = stage.excuse(victim)
    stage.note("expired certificate")
    victim.terminate()
    words = ["certs", "issue", "--dir", str(stage.folder / "authority"), "--node", victim.name, "--days", "30"]
    subprocess.run(
        ["faketime", "-f", "-90d", stage.fleet.binary, *words, "--out", str(stage.fleet.certificates)],
        check=True,
        capture_output=True,
        timeout=30,
        env=os.environ,
    )
    victim.spawn()
    code = victim.child.wait(20)
    last = victim.output().splitlines()[-1]
    stage.figure("exit code with an expired certificate", code, "", "1", code == 1)
    stage.figure("it says why", "yes" if "expired" in last else last[:120], "", "yes", "expired" in last)
    stage.fleet.issue(victim.name)
    victim.start()
    stage.excuse_ends(index)
    stage.note("a good one")
    stage.converged()
    stage.rest(2)
    load.end()
    failed = [request for request in load.requests if not request.served]
    stage.at_most("failed requests of clients that retry once on the next region", len(failed), 0)


SCENARIO = Scenario(
    what="A router is started again with a certificate that has expired.",
    expected="It does not start and says why; the others serve on; with a good one it is back.",
    bound="exit code 1 and a word on it, 0 failed requests with one retry",
    run=run,
    programs=("faketime",),
)
