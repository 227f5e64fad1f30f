"""Says what is wrong with Kubernetes objects: each against the schema of its kind, none left out.

Core kinds are held against the published schemas, where an unknown field is an error. Custom resources
are held twice against their definitions: values by the validators that were made from them, names of
fields by the types that were made from them (`custom_resources.mjs`). A kind nobody knows is a problem.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import referencing

HERE = Path(__file__).parent
KUBERNETES = "1.37"
# Groups of the core that have a dot in them; all others with one are custom.
CORE_GROUPS = {
    "",
    "apps",
    "autoscaling",
    "batch",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
}

Object = dict[str, Any]


def title(item: Object) -> str:
    """`Kind/name` of an object, for messages."""
    return f"{item.get('kind')}/{item.get('metadata', {}).get('name')}"


def problems(objects: list[Object]) -> list[str]:
    """Every problem of every object."""
    core = [item for item in objects if _group(item) in CORE_GROUPS]
    custom = [item for item in objects if _group(item) not in CORE_GROUPS]
    found = [problem for item in core for problem in _core_problems(item)]
    return found + (_custom_problems(custom) if custom else [])


def _group(item: Object) -> str:
    return str(item.get("apiVersion", "")).rpartition("/")[0]


def _core_problems(item: Object) -> list[str]:
    validator = _validator(str(item.get("kind")).lower(), str(item.get("apiVersion")))
    if validator is None:
        return [f"{title(item)}: no such kind in Kubernetes {KUBERNETES}: {item.get('apiVersion')}"]
    error = jsonschema.exceptions.best_match(validator.iter_errors(item))
    return [f"{title(item)}: {'.'.join(str(step) for step in error.path)}: {error.message}"] if error else []


def _published(name: str) -> Any:
    """A schema of the package, in which unknown fields are errors; its own function reads all anew each time."""
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    return json.loads((folder / name).read_text())


@functools.cache
def _definitions() -> referencing.Registry[Any]:
    return referencing.Resource.from_contents(_published("_definitions.json")) @ referencing.Registry()


@functools.cache
def _validator(kind: str, api_version: str) -> jsonschema.Draft202012Validator | None:
    # `apps/v1` is `apps-v1` there, `networking.k8s.io/v1` is `networking-v1`.
    name = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    try:
        schema = _published(f"{kind}-{name}.json")
    except FileNotFoundError:
        return None
    return jsonschema.Draft202012Validator(schema, registry=referencing.Resource.from_contents(schema) @ _definitions())


def _custom_problems(objects: list[Object]) -> list[str]:
    run = subprocess.run(
        ["node", HERE / "custom_resources.mjs"],
        input=json.dumps(objects),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert isinstance(found, list)
    return found
