"""Words that must never be seen outside of where they belong, and the search for them."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import quote

from settings import ADMIN_TOKEN, PROVIDER_KEY, SHARED_SECRET

# What every test's nodes are given: none of it may stand in the output of any process of the suite.
SECRETS = (ADMIN_TOKEN, PROVIDER_KEY, SHARED_SECRET)


def forms(secret: str) -> set[bytes]:
    """The ways in which a word could be written by mistake."""
    raw = secret.encode()
    # The middle of three alignments of base64 is the same whatever stands before.
    coded = {base64.b64encode(b"\0" * shift + raw)[4 : 4 + len(raw)] for shift in range(3)}
    return {raw, raw.hex().encode(), quote(secret, safe="").encode(), *coded}


def found(outputs: dict[str, bytes], secrets: Iterable[str] = SECRETS) -> list[str]:
    """Where a secret stands, in words that do not repeat it."""
    return [
        f"{name} shows the secret that begins with `{secret[:6]}`"
        for name, output in outputs.items()
        for secret in secrets
        if any(form in output for form in forms(secret))
    ]
