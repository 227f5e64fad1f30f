"""Operators' HTTP: short requests from a place, blocking."""

from __future__ import annotations

import http.client
import json
from typing import Any

from .ground import Ground


def ask(
    ground: Ground,
    place: str,
    address: tuple[str, int],
    path: str,
    *,
    method: str = "GET",
    body: Any = None,
    headers: dict[str, str] | None = None,
    timeout: float = 5,
) -> tuple[int, bytes]:
    """Status and body of one request."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    connection.sock = ground.socket(place)
    try:
        connection.sock.settimeout(timeout)
        connection.sock.connect(address)
        data = None if body is None else json.dumps(body).encode()
        kind = {} if data is None else {"content-type": "application/json"}
        connection.request(method, path, data, {**kind, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
