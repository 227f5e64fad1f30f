"""One backend states four times the tokens."""

from __future__ import annotations

from lab.faults import one_backend
from lab.stage import Scenario, Stage


def run(stage: Stage) -> None:
    """The fault on one backend for 12 s, then none."""
    one_backend(stage, "backend_lies_usage", {"action": {"wrongUsage": {"factor": 4}}}, errors_percent=1.0)
    check_stated(stage)


def check_stated(stage: Stage) -> None:
    """The ledgers hold what the answers stated, not what was used."""
    liar = stage.fleet.mocks[0]
    stage.rest(2)
    rows = [
        row for r in stage.routers for row in r.rows() if row["backend"] == liar.name and row["outcome"] == "served"
    ]
    told = sum(row["output_tokens"] for row in rows)
    used = liar.books()["output_tokens"]
    stage.figure(
        "output tokens in the ledgers against those used", round(told / max(1, used), 2), "times", "> 1", told > used
    )
    liar.misstates = True


SCENARIO = Scenario(
    what="A cluster states four times the tokens it used.",
    expected="Answers pass unharmed. The ledger books what was stated; that it differs from the books shows the lie.",
    bound="every request answered or a typed error; errors ≤ 1 %",
    run=run,
)
