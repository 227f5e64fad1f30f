"""A router is told to reload garbage."""

from __future__ import annotations

from lab.stage import Scenario, Stage

GARBAGE = ("{", "server: [", "\x00\x01\x02", "clusters: 7\n", "router: {routingStrategy: nonsense}\n", "a: " * 50_000)


def run(stage: Stage) -> None:
    """One kind of garbage after the other, then the good file again."""
    victim = stage.routers[0]
    load = stage.load(rate=15)
    stage.rest(2)
    before = victim.file.read_text()
    for text in GARBAGE:
        stage.note(f"garbage {text[:12]!r}")
        draft = victim.file.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(victim.file)
        victim.admin("/admin/reload", "POST")
        stage.rest(1)
    refused = victim.metric("llm_router_config_reloads_total", result="refused")
    stage.at_least("reloads refused", refused, len(GARBAGE))
    draft.write_text(before)
    draft.replace(victim.file)
    stage.seconds_until(
        lambda: victim.metric("llm_router_config_reloads_total", result="applied") > 0, 10, "the good file is taken"
    )
    stage.rest(1)
    load.end()
    failed = [a for a in stage.attempts() if a.outcome != "answered"]
    stage.at_most("errors", len(failed), 0)


SCENARIO = Scenario(
    what="A router's configuration is replaced by garbage, six kinds of it, and reloaded; then by the good one.",
    expected="A bad file changes nothing and says why.",
    bound="0 errors, every garbage refused",
    run=run,
    quick=True,
)
