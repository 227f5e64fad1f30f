"""HMAC v1 written a second time, from the description of the protocol alone."""

from __future__ import annotations

import hashlib
import hmac
import time

from settings import SHARED_SECRET

# A signature counts this many seconds before and after its time.
WINDOW = 300


def signature(timestamp: str, method: str, path: str, body: bytes, secret: str = SHARED_SECRET) -> str:
    """Lower-case hex HMAC-SHA256 over timestamp, METHOD, path and body without separators."""
    return hmac.new(
        secret.encode(), timestamp.encode() + method.encode() + path.encode() + body, hashlib.sha256
    ).hexdigest()


def headers(method: str, path: str, body: bytes, *, age: int = 0, secret: str = SHARED_SECRET) -> dict[str, str]:
    """The three headers of a request that was signed `age` seconds ago."""
    timestamp = str(int(time.time()) - age)
    return {
        "x-timestamp": timestamp,
        "x-signature": signature(timestamp, method, path, body, secret),
        "x-auth-type": "hmac-sha256",
        "content-type": "application/json",
    }
