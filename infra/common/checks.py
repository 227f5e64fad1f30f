"""The one file of regions, sizes, prices, names and tags: reads and checks it.

The schema is platform.schema.json, which the TypeScript programs use too; this reads it without any package.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PLATFORM = HERE / "platform.json"
STALE_DAYS = 365

Json = Any


class RefusedError(Exception):
    """Something a person has to put right; the text says what."""


def check_schema(value: Json, schema: Json, root: Json, path: str = "") -> list[str]:
    """What of a value its JSON Schema does not allow. Knows the keywords platform.schema.json uses."""
    if "$ref" in schema:
        return check_schema(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, path)
    here = path or "the file"
    wanted = schema.get("type")
    if wanted and not _is(value, wanted):
        return [f"{here}: must be {_article(wanted)}, is `{json.dumps(value)}`"]
    found = []
    if "const" in schema and value != schema["const"]:
        found.append(f"{here}: must be `{json.dumps(schema['const'])}`, is `{json.dumps(value)}`")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{here}: `{value}` is not one of {', '.join(map(str, schema['enum']))}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{here}: `{value}` does not match `{schema['pattern']}`")
    found += _bounds(value, schema, here)
    if wanted == "object":
        found += _members(value, schema, root, path)
    if wanted == "array":
        for index, item in enumerate(value):
            found += check_schema(item, schema.get("items", {}), root, f"{path}.{index}")
        if schema.get("uniqueItems") and len({json.dumps(item) for item in value}) < len(value):
            found.append(f"{here}: names something twice")
    return found


def _is(value: Json, wanted: str) -> bool:
    match wanted:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
    return False


def _article(wanted: str) -> str:
    return f"an {wanted}" if wanted[0] in "aeiou" else f"a {wanted}"


def _bounds(value: Json, schema: Json, here: str) -> list[str]:
    found = []
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{here}: `{value}` is less than {schema['minimum']}")
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        found.append(f"{here}: `{value}` must be more than {schema['exclusiveMinimum']}")
    if "maximum" in schema and value > schema["maximum"]:
        found.append(f"{here}: `{value}` is more than {schema['maximum']}")
    if "minItems" in schema and len(value) < schema["minItems"]:
        found.append(f"{here}: needs at least {schema['minItems']}")
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        found.append(f"{here}: has more than {schema['maxItems']}")
    if "minProperties" in schema and len(value) < schema["minProperties"]:
        found.append(f"{here}: is empty")
    return found


def _members(value: Json, schema: Json, root: Json, path: str) -> list[str]:
    inside = f"{path}." if path else ""
    known = schema.get("properties", {})
    found = [f"{inside}{name}: is missing" for name in schema.get("required", []) if name not in value]
    for name, item in value.items():
        matching = [part for pattern, part in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
        other = schema.get("additionalProperties", True)
        if name in known:
            found += check_schema(item, known[name], root, f"{inside}{name}")
        elif matching:
            for part in matching:
                found += check_schema(item, part, root, f"{inside}{name}")
        elif other is False:
            found.append(f"{inside}{name}: unknown key, known are {', '.join(known) or 'others'}")
        elif isinstance(other, dict):
            found += check_schema(item, other, root, f"{inside}{name}")
    return found


def check_sense(platform: Json) -> list[str]:
    """What no schema can say: values that only together are wrong."""
    found = []
    blocks: list[tuple[str, ipaddress.IPv4Network]] = []
    for key, region in platform["regions"].items():
        proper = f"{region['cloud']}-{region['region']}"
        if key != proper:
            found.append(f"regions.{key}: must be named `{proper}` after its cloud and region")
        for index, zone in enumerate(region["zones"]):
            if region["cloud"] != "azure" and not zone.startswith(region["region"]):
                found.append(f"regions.{key}.zones[{index}]: `{zone}` is not a zone of `{region['region']}`")
        for pool, machine in region["machines"].items():
            spot, full = machine["spotHour"]["usd"], machine["onDemandHour"]["usd"]
            if spot > full:
                path = f"regions.{key}.machines.{pool}.spotHour.usd"
                found.append(f"{path}: spot `{spot}` is dearer than on demand `{full}`")
        for name, cidr in region["network"].items():
            path = f"regions.{key}.network.{name}"
            try:
                block = ipaddress.IPv4Network(cidr)
            except ValueError as error:
                found.append(f"{path}: {error}")
                continue
            found += [f"{path}: `{cidr}` overlaps with {other}" for other, taken in blocks if block.overlaps(taken)]
            blocks.append((path, block))
    for env, settings in platform["environments"].items():
        for pool, bounds in settings["pools"].items():
            if bounds["min"] > bounds["max"]:
                path = f"environments.{env}.pools.{pool}.min"
                found.append(f"{path}: `{bounds['min']}` is more than max `{bounds['max']}`")
    return found


def problems(platform: Json) -> list[str]:
    """Every problem of a platform file, each with its path."""
    schema = json.loads((HERE / "platform.schema.json").read_text())
    return check_schema(platform, schema, schema) or check_sense(platform)


def load(path: Path = PLATFORM) -> Json:
    """The platform file, or a refusal that names every wrong value."""
    try:
        platform = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        message = f"{path}: {error}"
        raise RefusedError(message) from error
    if found := problems(platform):
        raise RefusedError("\n".join([f"{path} cannot be used:", *(f"  {line}" for line in found)]))
    return platform


def stale_prices(platform: Json, today: datetime.date) -> list[str]:
    """The prices that nobody has read for a year."""
    found = []

    def walk(value: Json, path: str) -> None:
        if isinstance(value, dict):
            if "usd" in value and "date" in value:
                age = (today - datetime.date.fromisoformat(value["date"])).days
                if age > STALE_DAYS:
                    found.append(f"{path}: known for {value['date']}, {age} days ago")
                return
            for name, item in value.items():
                walk(item, f"{path}.{name}" if path else name)

    walk(platform, "")
    return found


def stem(platform: Json, env: str, region: str) -> str:
    """The name of a region's cluster, and the beginning of every other name."""
    pattern: str = platform["names"]["stem"]
    return pattern.format(project=platform["project"], env=env, region=region)


def look_up(platform: Json, path: str) -> Json:
    """The value at a path such as `environments.prod.budgetUsd`."""
    value = platform
    for step in path.split("."):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            known = ", ".join(value) if isinstance(value, dict) else "nothing"
            message = f"no `{step}` on the way to `{path}`: there is {known}"
            raise RefusedError(message) from error
    return value
