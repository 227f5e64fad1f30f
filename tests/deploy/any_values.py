"""Values that a chart's schema allows, drawn by seed: what somebody else might write."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = ("alpha", "beta-2", "gamma")
# What a pattern of the schemas stands for: the pattern's start, and examples of it.
EXAMPLES = {
    "^[0-9]+(\\.[0-9]+)?(m|k|Ki": ("250m", "1Gi", "512Mi", "2"),
    "^([0-9]{1,3}\\.){3}[0-9]{1,3}/": ("10.1.0.0/16", "203.0.113.7/32"),
    "^([0-9]{1,3}\\.){3}[0-9]{1,3}$": ("203.0.113.10", "203.0.113.11", "198.51.100.3"),
    "^(\\[[0-9a-fA-F:]+\\]|": ("gossip.example.org:7946", "192.0.2.7:7000"),
    "^[0-9]+(s|m)$": ("10s", "1m"),
    "^([0-9]+(h|m|s))+$": ("1h", "15m"),
    "^[0-9a-f]{64}$": ("0" * 64, "ab" * 32),
    "^(s3://": (
        "s3://bucket/a/b.gguf",
        "gs://bucket/b.gguf",
        "azblob://account/box/b.gguf",
        "https://example.org/b.gguf",
    ),
    "^https?://[^/?#@]+": ("http://10.0.0.7:8080", "https://llama.example.org"),
    "^(https?://[^/@": ("", "http://collector:4317", "https://collector.example.org:4318/otlp"),
    "^https?://.+": ("http://prometheus:9090",),
    "^https://": ("https://acme.example.org/directory",),
    "^eipalloc-": ("eipalloc-0a1", "eipalloc-0a2", "eipalloc-0a3"),
    "^subnet-": ("subnet-0a1", "subnet-0a2"),
    "^[1-9][0-9]?%$": ("50%",),
    "^$|^[^@\\s]+@": ("ops@example.org", ""),
    "^$|^sha256:": ("", "sha256:" + "0" * 64),
    "^$|^[A-Za-z0-9_]": ("1.2.3", "v2", "server-cuda12-b11151"),
    "^[A-Za-z_][A-Za-z0-9_]*$": ("NAME", "OTHER_NAME"),
}


class Draw:
    """Draws values for one schema."""

    def __init__(self, schema: Path, seed: str) -> None:
        self.root = json.loads(schema.read_text())
        self.random = random.Random(seed)

    def values(self) -> dict[str, Any]:
        """Some of the chart's values, changed: the rest keeps its defaults."""
        return self._mapping(self.root, share=0.35)

    def _mapping(self, schema: dict[str, Any], share: float) -> dict[str, Any]:
        drawn = {}
        for name, part in schema.get("properties", {}).items():
            # The router's own configuration is drawn by nobody: the binary's tests do that.
            if part.get("$ref", "").endswith("/Config") or self.random.random() > share:
                continue
            value = self._any(part)
            if value is not None:
                drawn[name] = value
        return drawn

    def _any(self, schema: dict[str, Any]) -> Any:
        while "$ref" in schema:
            schema = self.root["$defs"][schema["$ref"].rpartition("/")[2]]
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        if "const" in schema:
            return schema["const"]
        if "anyOf" in schema:
            return self._any(self.random.choice(schema["anyOf"]))
        match schema.get("type"):
            case "boolean":
                return self.random.random() < 0.5
            case "integer":
                least = schema.get("minimum", 0)
                most = schema.get("maximum", least + 7)
                return self.random.choice([least, min(least + 2, most), most])
            case "number":
                return schema.get("minimum", 1) + 0.25
            case "string":
                return self._text(schema)
            case "array":
                item = schema["items"]
                if item == {"type": "object"}:
                    return None
                drawn = [self._whole(item) for _ in range(self.random.randint(schema.get("minItems", 0), 3))]
                return [value for at, value in enumerate(drawn) if value not in drawn[:at]]
            case "object" if "properties" in schema:
                return self._mapping(schema, share=0.6)
            case "object" if isinstance(schema.get("additionalProperties"), dict):
                names = schema.get("propertyNames")
                keys = [self._any(names) if names else f"example.org/{word}" for word in self.random.sample(WORDS, 2)]
                return {key: self._whole(schema["additionalProperties"]) for key in dict.fromkeys(keys)}
        return None

    def _whole(self, schema: dict[str, Any]) -> Any:
        """An entry of a list or mapping, which has no defaults: with all it must have."""
        while "$ref" in schema:
            schema = self.root["$defs"][schema["$ref"].rpartition("/")[2]]
        if "properties" in schema:
            wanted = {name: part for name, part in schema["properties"].items() if name in schema.get("required", [])}
            return {name: self._whole(part) for name, part in wanted.items()}
        return self._any(schema)

    def _text(self, schema: dict[str, Any]) -> str:
        pattern = schema.get("pattern", "")
        for start, examples in EXAMPLES.items():
            if pattern.startswith(start):
                return self.random.choice(examples)
        return self.random.choice(WORDS)
