"""Keeps the router's own JSON Schema inside the charts that carry its configuration.

`python tests/deploy/config_schema.py` asks the built binary (LLM_ROUTER_BIN, else target/debug) for its schema
and writes it into the charts' values.schema.json, so that a wrong configuration fails in `helm template`,
before anything is deployed. `test_charts_router.py` says when that has to be done again.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "charts/router/values.schema.json"
PREFIX = "Config"


def own_schema(binary: Path) -> dict[str, Any]:
    """What the binary says its configuration is."""
    run = subprocess.run([binary, "schema"], capture_output=True, text=True, check=True, timeout=20)
    schema = json.loads(run.stdout)
    assert isinstance(schema, dict)
    return schema


def _without_null(part: Any) -> Any:
    """A schema that no longer allows null: in values, null means the default, and errors read better without it."""
    if isinstance(part, list):
        return [_without_null(item) for item in part]
    if not isinstance(part, dict):
        return part
    part = {name: _without_null(item) for name, item in part.items()}
    if isinstance(part.get("type"), list):
        types = [name for name in part["type"] if name != "null"]
        part["type"] = types[0] if len(types) == 1 else types
    if isinstance(part.get("enum"), list):
        part["enum"] = [item for item in part["enum"] if item is not None]
    if isinstance(part.get("anyOf"), list):
        kinds = [item for item in part.pop("anyOf") if item != {"type": "null"}]
        part |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    return part


def embedded(values_schema: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The schema of the values with the configuration's in it, its definitions under names of their own."""
    definitions = {name: part for name, part in values_schema["$defs"].items() if not name.startswith(PREFIX)}
    moved = _without_null(json.loads(json.dumps(own).replace("#/$defs/", f"#/$defs/{PREFIX}")))
    definitions |= {f"{PREFIX}{name}": part for name, part in moved.pop("$defs", {}).items()}
    moved.pop("$schema", None)
    definitions[PREFIX] = moved
    return values_schema | {"$defs": definitions}


def main() -> None:
    """Writes the file anew."""
    binary = Path(os.environ.get("LLM_ROUTER_BIN", ROOT / "target/debug/llm-router"))
    schema = embedded(json.loads(SCHEMA.read_text()), own_schema(binary))
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")


if __name__ == "__main__":
    main()
