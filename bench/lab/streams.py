"""Streamed answers: many at a model's pace, and few as fast as they can be read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from .contestants import MODEL, OTHERS, PROVIDER_KEY, Contestant, Target
from .load import CONNECTIONS, Sample
from .process import Process, free_port

# A model's pace: the first token at once, then so many a second.
TOKENS_PER_SECOND = 10
TOKENS = 40
RAMP_MS = 2_000


class Paced:
    """A backend that streams at a model's pace."""

    def __init__(self, folder: Path, binary: str) -> None:
        self.port = free_port()
        command = [binary, "mock", "--kind", "openai", "--listen", f"127.0.0.1:{self.port}", "--model", MODEL]
        command += ["--ttft-ms", "0", "--tokens-per-second", str(TOKENS_PER_SECOND), "--slots", "8192"]
        command += ["--api-key", PROVIDER_KEY]
        self.process = Process(command, folder / "mock.log", OTHERS, {"LOG_LEVEL": "warn"})
        self.process.wait_for(f"http://127.0.0.1:{self.port}/v1/models")

    def stop(self) -> None:
        """Ends it."""
        self.process.stop()


def ask(client: str, target: Target, folder: Path, streams: int, ramp_ms: int, rounds: int) -> Sample:
    """What the client of streams saw."""
    url = urlsplit(target.url)
    headers = {"host": url.netloc, "content-type": "application/json", "content-length": str(len(target.body))}
    # Of a backend asked directly: a router brings its own.
    headers = {"authorization": f"Bearer {PROVIDER_KEY}", **headers, **target.headers}
    head = f"POST {url.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = folder / "request"
    request.write_bytes(head.encode() + b"\r\n" + target.body)
    words = [client, url.netloc, str(request), str(streams), str(ramp_ms), str(rounds)]
    command = ["taskset", "-c", ",".join(map(str, OTHERS)), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert not seen["failed"], f"{seen['failed']} of {streams} streams failed: {seen['why']}"
    return {
        "answers": seen["answers"],
        "events": seen["events"],
        "events_per_s": seen["events"] / seen["seconds"],
        "ttfb_p50_us": seen["ttfb_us"]["p50"],
        "ttfb_p99_us": seen["ttfb_us"]["p99"],
        "end_p99_us": seen["end_us"]["p99"],
    }


def burst(contestant: Contestant, folder: Path, client: str, seconds: int) -> Sample:
    """Streams whose events can all be read together, over kept connections."""
    process, target = contestant.start(folder / "measured")
    try:
        ask(client, target, folder, CONNECTIONS, 0, 20)
        before = process.cpu_seconds() if process else 0.0
        sample = ask(client, target, folder, CONNECTIONS, 0, 100 * seconds)
        if process:
            sample["cpu_s_per_10k"] = (process.cpu_seconds() - before) / sample["answers"] * 10_000
        return sample
    finally:
        if process:
            process.stop()


def paced(contestant: Contestant, folder: Path, client: str, streams: int) -> Sample:
    """Many streams at once at a model's pace, and what they weigh."""
    process, target = contestant.start(folder / "measured")
    try:
        body = json.loads(target.body) | {"max_tokens": TOKENS}
        target.body = json.dumps(body).encode()
        ask(client, target, folder, CONNECTIONS, 0, 1)
        idle = process.memory_mb() if process else 0.0
        before = process.cpu_seconds() if process else 0.0
        sample = ask(client, target, folder, streams, RAMP_MS, 1)
        if process:
            sample["cpu_s"] = process.cpu_seconds() - before
            sample["idle_mb"], sample["peak_mb"] = idle, process.peak_mb()
        return sample
    finally:
        if process:
            process.stop()
