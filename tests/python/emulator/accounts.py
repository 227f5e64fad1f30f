"""The accounts and models of the emulated providers, as the node's file names them."""

from __future__ import annotations

import settings
from dialects import DIALECTS
from provider_emulator import Emulator

PROVIDER_TYPES = {"openai": "openai", "anthropic": "claude", "gemini": "gemini"}
KINDS = list(PROVIDER_TYPES)
# Silence, in seconds, after which the node gives an answer up.
PATIENCE = 2
# Faults in a stream, before and after its first content.
STREAM_FAULTS = ["disconnect", "truncate", "malformed", "stall"]
# The emulator gives 503 and 529 a Retry-After, which closes an account: that is the limits' subject.
STATUSES = ["500", "502"]
# Every case has models of its own, so that a breaker that it opens is nothing to another.
CASES = [
    "answer",
    "tools",
    "slow",
    "refused",
    *(f"status-{status}" for status in STATUSES),
    *(f"{place}-{fault}" for place in ("early", "late") for fault in STREAM_FAULTS),
]


def model(kind: str, case: str, dialect: str) -> str:
    """A model that only accounts of this kind serve; each client dialect has its own."""
    return f"{kind}.{case}.{dialect}"


def shared(dialect: str) -> str:
    """The name under which a model of every kind is served."""
    return f"any.{dialect}"


def account(emulator: Emulator, name: str, kind: str, models: list[settings.Settings]) -> settings.Settings:
    """An account at a provider."""
    return settings.provider(
        name,
        emulator.base(kind),
        models[0]["name"],
        PROVIDER_TYPES[kind],
        models=[{**entry, "price": {"input": 10.0, "output": 30.0}} for entry in models],
        capabilities=["chat", "tools", "json"],
    )


def accounts(emulator: Emulator) -> list[settings.Settings]:
    """Two accounts at each provider that can stand in for each other, and some that are alone."""
    made = []
    for kind in KINDS:
        models = [{"name": model(kind, case, dialect)} for case in CASES for dialect in DIALECTS]
        made += [account(emulator, f"{kind}-{number}", kind, models) for number in ("one", "two")]
        made.append(account(emulator, f"{kind}-alone", kind, [{"name": model(kind, "alone", "openai")}]))
        for dialect in DIALECTS:
            # A limit closes an account for all its models.
            made.append(
                account(emulator, f"{kind}-limited-{dialect}", kind, [{"name": model(kind, "limited", dialect)}])
            )
            one_of_any = {"name": model(kind, "any", dialect), "aliases": [shared(dialect)]}
            made.append(account(emulator, f"{kind}-any-{dialect}", kind, [one_of_any]))
    return made
