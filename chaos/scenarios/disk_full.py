"""The disk under a router's ledger is full."""

from __future__ import annotations

import contextlib
import os
import subprocess

from lab.stage import Scenario, Stage

SIZE = "3m"


def run(stage: Stage) -> None:
    """The ledger lies on a small tmpfs that somebody fills, then frees."""
    victim = stage.routers[0]
    folder = victim.ledger.parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "chaos", str(folder)], check=True, timeout=10)
    stage.also.append(lambda: subprocess.run(["umount", "--lazy", str(folder)], check=False, timeout=10))
    stage.fleet.start()
    load = stage.load(rate=15)
    stage.rest(3)
    stage.note("disk full")
    filler = folder / "filler"
    line = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(line, bytes(4096)):
            pass
    os.close(line)
    refused = stage.seconds_until(lambda: victim.metric("llm_router_ledger_sound") == 0, 15, "it says so")
    stage.figure("until the ledger is told not to be sound", round(refused, 2), "s")
    stage.rest(5)
    filler.unlink()
    stage.note("disk freed")
    stage.seconds_until(lambda: victim.metric("llm_router_ledger_sound") == 1, 15, "it is sound again")
    stage.rest(3)
    load.end()
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors (own clusters go on)", len(failed), 0)
    stage.at_most("entries lost", victim.metric("llm_router_ledger_lost_total"), 0)


SCENARIO = Scenario(
    what="The disk under a router's ledger is full for some seconds (a real tmpfs).",
    expected="Own clusters serve on, the metric says that somebody must act, and all is written once there is room.",
    bound="0 errors, 0 entries lost, ledger equals the books",
    run=run,
    started=False,
    memory=False,
    programs=("mount",),
)
