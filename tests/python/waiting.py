"""Waiting for a condition with a deadline: the only way in which these tests let time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

# Between two looks, in seconds. Short beside every deadline, long enough to leave the CPU alone.
LOOK_EVERY = 0.05


class DeadlineError(AssertionError):
    """The condition did not come true in time."""


def eventually(condition: Callable[[], Value], within: float, what: str, every: float = LOOK_EVERY) -> Value:
    """Returns the first truthy value of `condition`, looking again until `within` seconds are over.

    An exception in `condition` counts as "not yet"; the last one is shown when the deadline passes.
    """
    deadline = time.monotonic() + within
    last: object = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = value
        except Exception as error:  # noqa: BLE001 - whatever it is, the deadline decides
            last = error
        if time.monotonic() >= deadline:
            raise DeadlineError(f"not within {within} s: {what} (last seen: {last!r})")
        time.sleep(every)
