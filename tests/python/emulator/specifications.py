"""The vendors' published specifications, for the bodies that the emulator received.

The emulator itself accepts nearly everything; this closes that gap. The schemas are those that
`tests/specs` holds the golden cases to.
"""

from __future__ import annotations

from typing import Any

from check_golden import REQUESTS, deepest, schemas
from jsonschema import Draft202012Validator
from provider_emulator import PREFIXES
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012


class Specifications:
    """What each vendor says a request must be."""

    def __init__(self) -> None:
        self._registry = Registry()
        for vendor, named in schemas().items():
            resource = Resource(contents={"components": {"schemas": named}}, specification=DRAFT202012)
            self._registry = self._registry.with_resource(f"urn:{vendor}", resource)

    def complaints(self, request: dict[str, Any]) -> list[str]:
        """What is wrong with a request that the emulator received."""
        vendor, name = self._schema(request["path"], request["stream"])
        assert vendor == request["provider"], request
        reference = {"$ref": f"urn:{vendor}#/components/schemas/{name}"}
        found = []
        for error in Draft202012Validator(reference, registry=self._registry).iter_errors(request["body"]):
            reason = deepest(error)
            place = "/".join(str(step) for step in reason.absolute_path)
            found.append(f"{request['path']}: {name}: {place}: {reason.message[:300]}")
        return found

    def _schema(self, path: str, stream: bool) -> tuple[str, str]:
        if ":" in path:
            action = path.rsplit(":", 1)[1]
            return REQUESTS[f"{action}?alt=sse" if stream else action]
        return REQUESTS[path.removeprefix(PREFIXES["anthropic"])]
