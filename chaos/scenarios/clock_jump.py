"""A router's wall clock jumps an hour ahead, then an hour back."""

from __future__ import annotations

from pathlib import Path

from lab.stage import Scenario, Stage

LIBRARY = "faketime/libfaketimeMT.so.1"


def run(stage: Stage) -> None:
    """libfaketime reads the offset from a file at every look; the monotonic clock stays as it is."""
    library = next(Path("/usr/lib").glob(f"*/{LIBRARY}"))
    offset = stage.folder / "offset"
    offset.write_text("+0\n")
    victim = stage.routers[0]
    victim.env.update(
        LD_PRELOAD=str(library),
        FAKETIME_TIMESTAMP_FILE=str(offset),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    stage.fleet.start()
    load = stage.load(rate=15)
    stage.rest(3)
    for jump in ("+3600", "-3600", "+0"):
        stage.note(f"clock {jump} s")
        offset.write_text(f"{jump}\n")
        stage.rest(6)
        stage.at_most(f"views equal with the clock {jump} s off", stage.converged(), 3, "s")
    load.end()
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors", len(failed), 0)


SCENARIO = Scenario(
    what="The wall clock of a router jumps an hour ahead, two back, and home.",
    expected="Ages are counted by arrival, deadlines by the monotonic clock: nobody notices.",
    bound="0 errors, views equal all the time",
    run=run,
    programs=(LIBRARY,),
    started=False,
    memory=False,
)
