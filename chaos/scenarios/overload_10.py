"""10 times the requests that the backends can serve."""

from __future__ import annotations

from lab.overload import overload

SCENARIO = overload(10)
