"""Changes to the shared files, by commands rather than by hand: regions, recorded outputs, made folders."""

from __future__ import annotations

import argparse
import copy
import ipaddress
import json
import re
import shutil
from pathlib import Path

from .checks import Json, RefusedError, problems


def save(path: Path, platform: Json) -> None:
    """Writes a platform file that has no problem, in the form a person reads; refuses any other."""
    if found := problems(platform):
        raise RefusedError("\n".join(["nothing was changed, since then:", *(f"  {line}" for line in found)]))
    path.write_text(readable(platform))


def readable(value: Json) -> str:
    """JSON with one line for what reads as one thing: a price, a taint, a list of zones."""
    text = json.dumps(value, indent=2, ensure_ascii=False)

    def one_line(match: re.Match[str]) -> str:
        flat = re.sub(r"\s*\n\s*", " ", match[0])
        return flat.replace("{ ", "{").replace(" }", "}").replace("[ ", "[").replace(" ]", "]")

    text = re.sub(r"\{\n\s*\"usd\": [^{}\[\]]*?\n\s*\}", one_line, text)
    text = re.sub(r"\[\n[^\[\]{}]*?\]", one_line, text)
    return re.sub(r"\{\n[^{}\[\]]{1,110}\}", one_line, text) + "\n"


def with_region(platform: Json, options: argparse.Namespace) -> Json:
    """The platform with one region more."""
    if options.key in platform["regions"]:
        message = f"the region `{options.key}` is there already"
        raise RefusedError(message)
    if options.like not in platform["regions"]:
        message = f"no region `{options.like}` to be like: there is {', '.join(platform['regions'])}"
        raise RefusedError(message)
    cloud, _, name = options.key.partition("-")
    changed = copy.deepcopy(platform)
    region = copy.deepcopy(changed["regions"][options.like])
    if region["cloud"] != cloud:
        message = f"`{options.key}` cannot be like `{options.like}`: sizes and prices are another cloud's"
        raise RefusedError(message)
    networks = dict(pair.partition("=")[::2] for pair in options.networks.split(","))
    region |= {"region": name, "zones": options.zones.split(","), "network": networks}
    region |= {"latitude": options.latitude, "longitude": options.longitude}
    changed["regions"][options.key] = region
    return changed


def without_region(platform: Json, key: str) -> Json:
    """The platform with one region less."""
    if key not in platform["regions"]:
        message = f"no region `{key}`: there is {', '.join(platform['regions'])}"
        raise RefusedError(message)
    changed = copy.deepcopy(platform)
    del changed["regions"][key]
    return changed


def read_outputs(text: str, platform: Json, key: str) -> Json:
    """What a stack has put out, checked for what every region needs."""
    if key not in platform["regions"]:
        message = f"no region `{key}`: there is {', '.join(platform['regions'])}"
        raise RefusedError(message)
    try:
        outputs = json.loads(text)
    except ValueError as error:
        message = f"standard input is no JSON ({error}): pipe `pulumi stack output outputs --json` into this"
        raise RefusedError(message) from error
    if not isinstance(outputs, dict):
        message = f"the outputs must be an object, they are `{json.dumps(outputs)[:60]}`"
        raise RefusedError(message)
    for name in ("inbound", "outbound"):
        addresses = outputs.get(name)
        if not isinstance(addresses, list) or not addresses:
            message = f"outputs.{name}: must name the region's addresses, is `{json.dumps(addresses)}`"
            raise RefusedError(message)
        for address in addresses:
            try:
                ipaddress.IPv4Address(address)
            except ValueError as error:
                message = f"outputs.{name}: {error}"
                raise RefusedError(message) from error
    return outputs


def difference(folder: Path, files: dict[str, str]) -> list[str]:
    """The files that are missing, other than they should be, or of a region that is no more."""
    stale = [path for path, text in files.items() if not _same(folder / path, text)]
    return sorted(stale + _leftover(folder, files))


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def _leftover(folder: Path, files: dict[str, str]) -> list[str]:
    # Only folders of regions are made: `dev-KEY`, `prod-KEY`.
    made = [path for pattern in ("dev-*/*", "prod-*/*") for path in folder.glob(pattern)]
    return [str(path.relative_to(folder)) for path in made if str(path.relative_to(folder)) not in files]


def write(folder: Path, files: dict[str, str]) -> None:
    """Writes the files and removes the folders of regions that are no more."""
    for path in _leftover(folder, files):
        (folder / path).unlink()
    for parent in [*folder.glob("dev-*"), *folder.glob("prod-*")]:
        if not any(parent.iterdir()):
            shutil.rmtree(parent)
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
