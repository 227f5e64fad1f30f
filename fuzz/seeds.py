"""Writes the first inputs of the fuzz targets from the golden cases of the wire dialects.

    python3 fuzz/seeds.py        fills fuzz/corpus, which is not committed

The layout of an input is `fuzz/src/lib.rs`'s: client and operation, backend, flags, size of a piece, body.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
GOLDEN = ROOT.parent / "logic" / "tests" / "golden"
ASKED = [
    ("openai", "chat"),
    ("openai", "completion"),
    ("openai", "embedding"),
    ("openai", "responses"),
    ("anthropic", "chat"),
    ("anthropic", "count_tokens"),
    ("gemini", "chat"),
]
KINDS = ["openai", "anthropic", "gemini", "llama"]
PIECE = 7
# What no golden case holds. The codec reads base64url text of bincode.
GOSSIP = ["AQcBAAAA", "AQ", "n", "b/aws-1", "m/gcp.2", "AQEEY2hhdAEB"]
EVENTS = [
    ": a comment\r\ndata: a\r\ndata: b\r\n\r\n",
    "\ufeffevent: x\ndata:y\n\n",
    "data\n\nid: 1\nretry: 5\ndata: é\r\r",
]


def write(target: str, name: str, content: bytes) -> None:
    """Adds one input to the corpus of a target."""
    folder = ROOT / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def body(received: Any) -> bytes:
    """What a backend sends, as the golden cases write it: a body, or a list of events."""
    if not isinstance(received, list):
        return json.dumps(received).encode()
    out = []
    for event in received:
        name = ""
        if isinstance(event, dict) and set(event) == {"event", "data"}:
            name, event = f"event: {event['event']}\n", event["data"]
        out.append(f"{name}data: {event if isinstance(event, str) else json.dumps(event)}\n\n")
    return "".join(out).encode()


def main() -> None:
    """Writes all of them."""
    for file in sorted(GOLDEN.glob("*/*.json")):
        case = json.loads(file.read_text())
        asked = (case["client"], case.get("operation", "chat"))
        if asked not in ASKED:
            continue
        name = f"{file.parent.name}-{file.stem}"
        request, received = case.get("request"), case.get("receives")
        path = case.get("path", {})
        streams = path.get("stream") or bool((request or {}).get("stream"))
        flags = int(streams) | 2 * isinstance(received, list)
        choice = bytes([ASKED.index(asked), KINDS.index(case["backend"]), flags, PIECE])
        if request is not None:
            write("request", name, choice + json.dumps(request).encode())
        if received is not None:
            write("reply", name, choice + body(received))
            if isinstance(received, list):
                write("sse", name, bytes([PIECE]) + body(received))
    for number, text in enumerate(GOSSIP):
        write("gossip", f"seed-{number}", text.encode())
    for number, text in enumerate(EVENTS):
        write("sse", f"seed-{number}", bytes([PIECE]) + text.encode())


if __name__ == "__main__":
    main()
