"""Waiting for a condition with a deadline: the only way in which a scenario waits for something to become true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


class TooLateError(AssertionError):
    """The condition did not come true in time."""


def eventually(condition: Callable[[], Value], within: float, what: str, every: float = 0.05) -> Value:
    """Returns the first truthy value of `condition`; an exception in it counts as not yet."""
    deadline = time.monotonic() + within
    last: object = None
    while True:
        try:
            value = condition()
        except Exception as error:  # noqa: BLE001 - whatever it is, the deadline decides
            last = error
        else:
            if value:
                return value
            last = value
        if time.monotonic() >= deadline:
            message = f"not within {within} s: {what} (last seen: {last!r})"
            raise TooLateError(message)
        time.sleep(every)
