"""The report: raw figures as JSON, tables and a plot for people, and which targets are met."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .contestants import BODY_BYTES, EVENTS
from .figures import Figures, Summary
from .load import CONNECTIONS
from .streams import TOKENS_PER_SECOND

Cell = tuple[str, str, float]
# Heading, key of a sample, and what it is multiplied by.
PLAIN: list[Cell] = [
    ("requests/s", "per_s", 1),
    ("CPU-s per 10,000", "cpu_s_per_10k", 1),
    ("p50 µs", "p50_us", 1),
    ("p99 µs", "p99_us", 1),
    ("half load p50 µs", "half_p50_us", 1),
    ("half load p99 µs", "half_p99_us", 1),
    ("one connection p50 µs", "alone_p50_us", 1),
    ("idle MB", "idle_mb", 1),
    ("ready ms", "ready_ms", 1),
]
BURST: list[Cell] = [
    ("events/s", "events_per_s", 1),
    ("CPU-s per 10,000 streams", "cpu_s_per_10k", 1),
    ("first byte p50 ms", "ttfb_p50_us", 0.001),
    ("first byte p99 ms", "ttfb_p99_us", 0.001),
]
PACED: list[Cell] = [
    ("first byte p50 ms", "ttfb_p50_us", 0.001),
    ("first byte p99 ms", "ttfb_p99_us", 0.001),
    ("CPU-s", "cpu_s", 1),
    ("idle MB", "idle_mb", 1),
    ("peak MB", "peak_mb", 1),
]


@dataclass(frozen=True)
class Aim:
    """A target: what is measured, and whether it may not be more or not be less."""

    what: str
    bound: float
    at_most: bool
    measured: Callable[[Figures], Summary | None]

    def holds(self, value: float) -> bool:
        """Whether a value meets it."""
        return value <= self.bound if self.at_most else value >= self.bound


def ratio(section: str, name: str, beside: str, key: str) -> Callable[[Figures], Summary | None]:
    """A ratio within each round."""
    return lambda figures: figures.ratio(section, name, beside, key)


def scaled(measured: Callable[[Figures], Summary | None], factor: float) -> Callable[[Figures], Summary | None]:
    """The same in another unit."""

    def convert(figures: Figures) -> Summary | None:
        found = measured(figures)
        return found and Summary(found.median * factor, found.low * factor, found.high * factor)

    return convert


CPU = "cpu_s_per_10k"
AIMS = [
    Aim("CPU per request ÷ nginx's", 2.0, True, ratio("plain", "router", "nginx", CPU)),
    Aim("requests/s ÷ nginx's", 0.5, False, ratio("plain", "router", "nginx", "per_s")),
    Aim("CPU translated ÷ passthrough", 1.6, True, ratio("plain", "router, translated", "router", CPU)),
    Aim(
        "CPU with gossip, ledger, 1 % traced ÷ without", 1.05, True, ratio("plain", "router, all three", "router", CPU)
    ),
    Aim("CPU with the cluster on ÷ off", 1.02, True, ratio("plain", "router, cluster on", "router", CPU)),
    Aim("CPU over 200 ÷ over 3 backends", 1.1, True, ratio("plain", "router, 200 backends", "router, 3 backends", CPU)),
    Aim(
        "p99 added at half load, ms",
        0.5,
        True,
        scaled(lambda figures: figures.difference("plain", "router", "direct", "half_p99_us"), 0.001),
    ),
    Aim("p50 at one connection ÷ nginx's", 1.3, True, ratio("plain", "router", "nginx", "alone_p50_us")),
    Aim("idle memory, MB", 25, True, lambda figures: figures.summary("plain", "router", "idle_mb")),
    Aim("start to ready, ms", 150, True, lambda figures: figures.summary("plain", "router", "ready_ms")),
    Aim("events/s ÷ nginx's, 40 readable at once", 0.5, False, ratio("burst", "router", "nginx", "events_per_s")),
    Aim(
        "first byte p99 of paced streams, ms",
        15,
        True,
        scaled(lambda figures: figures.summary("paced", "router", "ttfb_p99_us"), 0.001),
    ),
]


def cell(summary: Summary | None, factor: float = 1) -> str:
    """Median and spread."""
    if summary is None:
        return "-"
    return f"{summary.median * factor:,.3g} ± {summary.spread / 2:.0%}" if summary.median else "0"


def table(figures: Figures, section: str, cells: list[Cell]) -> list[str]:
    """A section as Markdown."""
    lines = ["| | " + " | ".join(heading for heading, _, _ in cells) + " |", "|---" * (len(cells) + 1) + "|"]
    for name in figures.samples.get(section, {}):
        row = [cell(figures.summary(section, name, key), factor) for _, key, factor in cells]
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return lines


def machine() -> str:
    """What it was measured on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return f"{os.cpu_count()} processors, {model}, Linux {platform.release()}"


def commit(root: Path) -> str:
    """The commit that is checked out."""
    asked = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.strip() or "unknown"


def plot(figures: Figures) -> str:
    """CPU per request as bars: text, since SVG is text."""
    found = [(name, figures.summary("plain", name, CPU)) for name in figures.samples.get("plain", {})]
    bars = [(name, summary) for name, summary in found if summary]
    most = max((summary.high for _, summary in bars), default=1)
    height = 26 * len(bars) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="8" y="16">CPU-seconds per 10,000 requests: median, lowest and highest</text>',
    ]
    for row, (name, summary) in enumerate(bars):
        y = 28 + 26 * row
        x = [180 + 380 * value / most for value in (summary.low, summary.median, summary.high)]
        fill = "#2f6f9f" if name.startswith("router") else "#9a9a9a"
        parts += [
            f'<text x="172" y="{y + 13}" text-anchor="end">{name}</text>',
            f'<rect x="180" y="{y}" width="{x[1] - 180:.1f}" height="18" fill="{fill}"/>',
            f'<path d="M{x[0]:.1f} {y + 9}H{x[2]:.1f}" stroke="black" stroke-width="2"/>',
            f'<text x="{x[2] + 6:.1f}" y="{y + 13}">{summary.median:.3f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def markdown(figures: Figures, root: Path) -> tuple[str, bool]:
    """The report, and whether every target that was measured is met."""
    lines = [
        f"Measured on {machine()}, commit `{commit(root)}`, by `bench/run --rounds {figures.rounds} "
        f"--seconds {figures.seconds}`. Each figure is the median of {figures.rounds} separate starts, ± half the "
        "distance between the lowest and the highest. Ratios are taken within a round.",
        "",
        "## Targets",
        "",
        "| | measured | target | |",
        "|---|---|---|---|",
    ]
    met = True
    for aim in AIMS:
        found = aim.measured(figures)
        if found is None:
            continue
        holds = aim.holds(found.median)
        met &= holds
        bound = f"{'≤' if aim.at_most else '≥'} {aim.bound:g}"
        lines.append(f"| {aim.what} | {cell(found)} | {bound} | {'met' if holds else '**missed**'} |")
    sections = [
        (f"Whole answers: {BODY_BYTES}-byte requests, {CONNECTIONS} connections", "plain", PLAIN),
        (f"Streams of {EVENTS} events that can be read together, {CONNECTIONS} connections", "burst", BURST),
        (f"Paced streams, {TOKENS_PER_SECOND} tokens a second each", "paced", PACED),
    ]
    for heading, section, cells in sections:
        if section in figures.samples:
            lines += ["", f"## {heading}", "", *table(figures, section, cells)]
    return "\n".join(lines) + "\n", met


def write(figures: Figures, out: Path, docs: Path | None) -> int:
    """Writes the report; 0 where every measured target is met."""
    root = Path(__file__).resolve().parents[2]
    text, met = markdown(figures, root)
    raw = json.dumps({"machine": machine(), "commit": commit(root), "samples": figures.samples}, indent=1) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(text)
    (out / "figures.json").write_text(raw)
    (out / "cpu.svg").write_text(plot(figures))
    if docs is not None:
        beside = docs / "docs" / "bench"
        beside.mkdir(exist_ok=True)
        (beside / "figures.json").write_text(raw)
        (beside / "cpu.svg").write_text(plot(figures))
        head = (Path(__file__).with_name("benchmarks_head.md")).read_text()
        picture = "\n![CPU per request](bench/cpu.svg)\n"
        (docs / "docs" / "BENCHMARKS.md").write_text(head + text + picture)
    print(text)
    return 0 if met else 1
