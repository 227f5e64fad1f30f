"""Writes docs/CHAOS.md from what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from . import report

HEAD = Path(__file__).with_name("chaos_head.md")


def write(root: Path, out: Path) -> None:
    """The page, its plots and the raw results beside it."""
    results = json.loads((out / "report.json").read_text())
    for result in results:
        result["complaints"] = [text for text in result["complaints"] if "Traceback" not in text]
    folder = root / "docs" / "chaos"
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        if result.get("plot"):
            shutil.copyfile(out / "plots" / result["plot"], folder / result["plot"])
    (folder / "report.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    page = [HEAD.read_text().rstrip(), "", *report.markdown(results, "chaos")]
    (root / "docs" / "CHAOS.md").write_text("\n".join(page) + "\n")
