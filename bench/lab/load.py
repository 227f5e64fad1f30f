"""Load on one target, and what it saw: h2load's requests, one line each."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from .contestants import OTHERS, Contestant, Target
from .process import Process

CONNECTIONS = 32
WARM_UP_S = 1


Sample = dict[str, float]


def quantile(ordered: list[int], share: float) -> float:
    """The value below which `share` of them lie."""
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) if ordered else float("nan")


def load(
    target: Target,
    process: Process | None,
    folder: Path,
    seconds: int,
    connections: int = CONNECTIONS,
    rate: float | None = None,
) -> Sample:
    """Asks for `seconds` over kept connections: as fast as answers come, or `rate` times a second."""
    folder.mkdir(parents=True, exist_ok=True)
    body, log = folder / "body.json", folder / "requests.log"
    body.write_bytes(target.body)
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "-t1", f"-c{connections}", f"-d{body}", f"--log-file={log}"]
    command += ["-H", "content-type: application/json"]
    for name, value in target.headers.items():
        command += ["-H", f"{name}: {value}"]
    if rate is not None:
        command.append(f"--rps={max(1, round(rate / connections))}")
    # Code and caches are warm before anything is counted.
    run([*command, f"-D{WARM_UP_S}", target.url])
    log.unlink(missing_ok=True)
    before = process.cpu_seconds() if process else 0.0
    output = run([*command, f"-D{seconds}", target.url])
    cpu = process.cpu_seconds() - before if process else 0.0
    times, failed = [], 0
    with log.open() as lines:
        for line in lines:
            _, status, took = line.split()
            if status == "200":
                times.append(int(took))
            else:
                failed += 1
    times.sort()
    took = re.search(r"finished in ([\d.]+)(ms|s),", output)
    assert took, output
    elapsed = float(took[1]) / (1000 if took[2] == "ms" else 1)
    sample = {
        "requests": len(times),
        "failed": failed,
        "per_s": len(times) / elapsed,
        "p50_us": quantile(times, 0.5),
        "p99_us": quantile(times, 0.99),
    }
    if process:
        sample["cpu_s_per_10k"] = cpu / max(1, len(times)) * 10_000
    return sample


def measure(contestant: Contestant, folder: Path, seconds: int) -> Sample:
    """One start: full load, half of that, one connection alone, memory."""
    process, target = contestant.start(folder / "measured")
    try:
        idle = process.memory_mb() if process else float("nan")
        full = load(target, process, folder / "load", seconds)
        half = load(target, process, folder / "load", seconds, rate=full["per_s"] / 2)
        alone = load(target, process, folder / "load", max(1, seconds // 2), connections=1)
        sample = {**full, "half_p50_us": half["p50_us"], "half_p99_us": half["p99_us"], "alone_p50_us": alone["p50_us"]}
        if process:
            sample |= {"idle_mb": idle, "ready_ms": (process.ready_after or 0) * 1000, "after_mb": process.memory_mb()}
        return sample
    finally:
        if process:
            process.stop()


def run(command: list[str]) -> str:
    """h2load's output."""
    done = subprocess.run(
        ["taskset", "-c", ",".join(map(str, OTHERS)), *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout
