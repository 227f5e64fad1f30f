"""HMAC v2 written a second time, from docs/SIDECAR.md alone."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from settings import SHARED_SECRET

# A signature counts this many seconds before and after its time.
WINDOW = 300


def signature(secret: str, target: tuple[str, str, str], body: bytes, stamp: tuple[str, str, str]) -> str:
    """Of eight lines; `target` is method, path and query, `stamp` is timestamp, nonce and key id."""
    lines = ["llm-router-hmac-v2", *target, hashlib.sha256(body).hexdigest(), *stamp]
    return hmac.new(secret.encode(), "".join(f"{line}\n" for line in lines).encode(), hashlib.sha256).hexdigest()


def key_id(secret: str) -> str:
    """The name of a secret for which none is configured."""
    return hmac.new(secret.encode(), b"llm-router-hmac-key-id", hashlib.sha256).hexdigest()[:8]


def headers(
    method: str, path: str, body: bytes, *, query: str = "", age: int = 0, secret: str = SHARED_SECRET, nonce: str = ""
) -> dict[str, str]:
    """The headers of a request that was signed `age` seconds ago."""
    stamp = (str(int(time.time()) - age), nonce or secrets.token_hex(16), key_id(secret))
    return {
        "x-timestamp": stamp[0],
        "x-nonce": stamp[1],
        "x-key-id": stamp[2],
        "x-signature": signature(secret, (method, path, query), body, stamp),
        "x-auth-type": "hmac-sha256-v2",
        "content-type": "application/json",
    }
