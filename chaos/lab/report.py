"""Reports: JSON for programs, Markdown for people, one plot per scenario. No library draws here: SVG is text."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from .load import ANSWERED, HONEST, Attempt
from .stage import Stage

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 900, 240, 48, 18, 26
COLOURS = {"answered": "#2e7d32", "typed": "#ef6c00", "broken": "#c62828"}


def commit(root: Path) -> str:
    """The commit the working tree stands on, marked where it differs."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=False
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "actors", "logic", "chaos")
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + ("+" if changed else "")


def plot(stage: Stage) -> str:
    """Time to the first content of every attempt over time, with what was done to the fleet."""
    attempts = [attempt for attempt in stage.attempts() if attempt.ended_at]
    length = max([stage.ended - stage.started, 1.0])
    highest = max([attempt_height(attempt) for attempt in attempts] or [1.0]) or 1.0

    def x(at: float) -> float:
        return LEFT + (at - stage.started) / length * (WIDTH - LEFT - 10)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / highest * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' font-family="sans-serif" font-size="10">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="12">{escape(stage.name)}: seconds to the first content (green: answered, orange: typed'
        " error, red: broken), over seconds</text>",
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - 10}" stroke="#444" fill="none"/>',
        f'<text x="4" y="{TOP + 8}">{highest:.1f}</text><text x="4" y="{HEIGHT - BOTTOM}">0</text>',
        f'<text x="{WIDTH - 40}" y="{HEIGHT - 6}">{length:.0f} s</text>',
    ]
    for kind, colour in COLOURS.items():
        # A plot is for eyes: more dots than this are a smear, and a megabyte.
        chosen = [attempt for attempt in attempts if kind_of(attempt) == kind]
        step = max(1, len(chosen) // 700)
        dots = "".join(f"M{x(a.started):.1f} {y(attempt_height(a)):.1f}h1" for a in chosen[::step])
        if dots:
            parts.append(f'<path d="{dots}" stroke="{colour}" stroke-width="2"/>')
    for number, (at, text) in enumerate(stage.notes[:40]):
        place = x(at)
        parts.append(f'<path d="M{place:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#1565c0" stroke-dasharray="2 3"/>')
        parts.append(
            f'<text x="{place + 2:.1f}" y="{TOP + 9 + number % 4 * 11}" fill="#1565c0">{escape(text[:40])}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def kind_of(attempt: Attempt) -> str:
    """How a dot is drawn."""
    if attempt.outcome == ANSWERED:
        return "answered"
    return "typed" if attempt.outcome in HONEST else "broken"


def attempt_height(attempt: Attempt) -> float:
    """Its time to first content, or to its end without one."""
    end = attempt.first_at or attempt.ended_at or attempt.started
    return end - attempt.started


def keep(result: dict[str, Any], file: Path) -> None:
    """Puts a result into the file of all results, in the place of an older one of the scenario and size."""
    results = json.loads(file.read_text()) if file.exists() else []
    same = (result["scenario"], result["nodes"])
    results = [old for old in results if (old["scenario"], old["nodes"]) != same] + [result]
    results.sort(key=lambda entry: (entry["scenario"], entry["nodes"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def stamp(root: Path) -> dict[str, Any]:
    """On what a result was measured; `load` is the machine's, its mean over five minutes."""
    load = Path("/proc/loadavg")
    busy = float(load.read_text().split()[1]) if load.exists() else None
    return {"load": busy, "commit": commit(root), "date": time.strftime("%Y-%m-%d", time.gmtime())}


def table(result: dict[str, Any]) -> list[str]:
    """The figures of one result as Markdown."""
    if not result["figures"]:
        return []
    lines = ["", "| figure | measured | bound | |", "|---|---|---|---|"]
    for figure in result["figures"]:
        mark = "" if not figure["bound"] else ("holds" if figure["holds"] else "**does not hold**")
        lines.append(f"| {figure['name']} | {figure['value']} {figure['unit']} | {figure['bound']} | {mark} |")
    return lines


def markdown(results: list[dict[str, Any]], plots: str | None = None) -> list[str]:
    """All results as Markdown: a table of contents, then a section each."""
    lines = ["| scenario | nodes | requests | answered | held | commit |", "|---|---|---|---|---|---|"]
    for result in results:
        held = "yes" if result["holds"] else f"**no** ({len(result['complaints'])})"
        lines.append(
            f"| [{result['scenario']}](#{anchor(result)}) | {result['nodes']} | {result['requests']}"
            f" | {result['answered']} | {held} | {result['commit']} |"
        )
    for result in results:
        lines += ["", f"### {result['scenario']}, {result['nodes']} nodes", "", result["what"], ""]
        lines += [f"*Expected*: {result['expected']}", "", f"*Bound*: {result['bound']}", ""]
        outcomes = ", ".join(f"{count} {what}" for what, count in sorted(result["outcomes"].items())) or "no requests"
        lines.append(
            f"{outcomes}; {result['seconds']} s, seed {result['seed']}, on {result['ground']}, {result['build']} build,"
            f" load of the machine {result.get('load', '?')} on {os.cpu_count()} CPUs, {result.get('date')}."
        )
        lines += table(result)
        for complaint in result["complaints"]:
            lines += ["", f"**Does not hold**: {' '.join(complaint.split())[:600]}"]
        if plots and result.get("plot"):
            lines += ["", f"![{result['scenario']}]({plots}/{result['plot']})"]
    return lines


def anchor(result: dict[str, Any]) -> str:
    """The heading's address."""
    return f"{result['scenario']}-{result['nodes']}-nodes"
