"""The scenarios: one small file each, with what is done, what is expected and the bound."""

from __future__ import annotations

import importlib
import pkgutil

from lab.stage import Scenario


def load_all() -> dict[str, Scenario]:
    """All of them by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").SCENARIO for name in names}
