"""Says what is wrong with Kubernetes objects: each against the schema of its kind, none left out.

Core kinds are held against the published schemas, where an unknown field is an error. Custom resources
are held twice against their definitions: values by the validators that were made from them, names of
fields by the types that were made from them (`custom_resources.mjs`). A kind nobody knows is a problem.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate

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
    try:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{title(item)}: no such kind in Kubernetes {KUBERNETES}: {item.get('apiVersion')}"]
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(step) for step in error.path)
        return [f"{title(item)}: {path}: {error.message}"]
    return []


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
