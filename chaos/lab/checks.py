"""The invariants that hold in every scenario, whatever went wrong in it. Each returns what is wrong, in sentences."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable

from .fleet import CANARIES, Fleet, Router
from .load import CUT, HONEST, NOT_CONNECTED, SILENT, STREAM_ERROR, Attempt

# (router, from, until): a time in which clients of that router may see it break.
Excuse = tuple[str, float, float]


def excused(attempt: Attempt, excuses: Iterable[Excuse]) -> bool:
    """Whether the router of an attempt was taken away from it on purpose."""
    ended = attempt.ended_at or float("inf")
    return any(
        router in (attempt.router, "*") and attempt.started < until and ended > since
        for router, since, until in excuses
    )


def every_request_is_answered(attempts: list[Attempt], excuses: list[Excuse]) -> list[str]:
    """No accepted request without an answer or a typed error; streams are not cut without an event that says so."""
    wrong: Counter[str] = Counter()
    for attempt in attempts:
        if attempt.outcome in HONEST:
            continue
        if attempt.outcome in (CUT, NOT_CONNECTED, SILENT) and excused(attempt, excuses):
            continue
        wrong[
            f"{attempt.outcome} at {attempt.router} (status {attempt.status}, {attempt.error or attempt.body[:80]})"
        ] += 1
    return [f"{count} times {what}" for what, count in wrong.most_common(8)]


def every_answer_is_of_one_piece(attempts: list[Attempt]) -> list[str]:
    """An answer depends on the question alone: what a client got is that text, or its beginning if it broke off."""
    whole: dict[int, str] = {}
    for attempt in attempts:
        if len(attempt.text) > len(whole.get(attempt.prompt, "")):
            whole[attempt.prompt] = attempt.text
    wrong = 0
    for attempt in attempts:
        expected = whole.get(attempt.prompt, "")
        complete = attempt.outcome == "answered"
        if not expected.startswith(attempt.text) or (complete and attempt.text != expected):
            wrong += 1
    return [f"{wrong} answers are not the text of one attempt"] if wrong else []


def ledgers_equal_books(fleet: Fleet) -> list[str]:
    """What the ledgers say was served is what the backends say they served.

    Exact where neither side was torn. The backend may have served to its end an attempt that the router saw break off
    (timed out, cut, client or router gone): such a row may or may not be in the books, so it widens the equality by
    itself and by nothing else. One that could not connect is in no books.
    """
    wrong = []
    rows = [row for router in fleet.routers for row in router.rows()]
    for mock in fleet.mocks:
        of_it = [row for row in rows if row["backend"] == mock.name]
        sure = [row for row in of_it if row["outcome"] == "served" and not row["estimated"]]
        unsure = [
            row for row in of_it if (row["outcome"] != "served" or row["estimated"]) and row["fault"] != "connect"
        ]
        books = mock.all_books()
        # A killed router may have sent a request within one commit of its end and have no row of it.
        unwritten = sum(router.kills for router in fleet.routers) * 4
        least, most = len(sure), len(sure) + len(unsure) + unwritten
        if mock.books_torn:
            # What it served between the last look at its books and its end is not in them.
            least = 0
        if not least <= books["requests"] <= most:
            wrong.append(
                f"{mock.name}: {books['requests']} requests in its books, {len(sure)} in the ledgers"
                f" and {len(unsure)} that may be"
            )
        for key in ("input_tokens", "output_tokens"):
            settled = sum(row[key] for row in sure)
            if most == least and not mock.misstates and books[key] != settled:
                wrong.append(f"{mock.name}: {books[key]} {key} in its books, {settled} in the ledgers")
    running = sum(row["outcome"] == "running" for row in rows)
    if running:
        wrong.append(f"{running} intents without a settlement")
    return wrong


def ledgers_add_up(fleet: Fleet) -> list[str]:
    """`ledger verify` finds nothing."""
    wrong = []
    for router in fleet.routers:
        if router.ledger.exists():
            done = subprocess.run(
                [fleet.binary, "ledger", "verify", "--ledger", str(router.ledger)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode != 0:
                wrong.append(f"{router.name}: {done.stdout}{done.stderr}")
    return wrong


def no_secret_is_told(fleet: Fleet, attempts: list[Attempt]) -> list[str]:
    """No key, token, secret or prompt in any log, metric, operators' page, ledger or error."""
    wrong = []
    texts: list[tuple[str, bytes]] = []
    for process in fleet.processes:
        texts.append((f"log of {process.name}", process.output().encode()))
    for router in fleet.routers:
        for suffix in ("", "-wal"):
            file = router.ledger.with_name(router.ledger.name + suffix)
            if file.exists():
                texts.append((f"ledger of {router.name}", file.read_bytes()))
        if router.running:
            for path in ("/metrics", "/admin/view", "/admin/decisions?limit=200", "/admin/spend", "/admin/limits"):
                texts.append((f"{path} of {router.name}", router.admin(path, timeout=30)[1]))
    for attempt in attempts:
        if attempt.body:
            texts.append((f"an error of {attempt.router}", attempt.body.encode()))
    for what, text in texts:
        wrong += [f"{what} holds the {name}" for name, canary in CANARIES.items() if canary.encode() in text]
    return sorted(set(wrong))


def nothing_panicked(fleet: Fleet) -> list[str]:
    """No panic in any log, survived or not."""
    return [
        f"{process.name}: {line[:200]}"
        for process in fleet.processes
        for line in process.output().splitlines()
        if "panicked at" in line
    ]


def memory_is_back(fleet: Fleet, baseline: dict[str, int]) -> list[str]:
    """Memory of each router is within a tenth of what it was when warm."""
    wrong = []
    for router in fleet.routers:
        before = baseline.get(router.name)
        if before and router.running:
            now = router.memory_kb()
            if now > before * 1.1:
                wrong.append(f"{router.name}: {now / 1024:.1f} MiB, {before / 1024:.1f} MiB when warm")
    return wrong


def all_run(routers: list[Router]) -> list[str]:
    """No router ended by itself."""
    return [f"{router.name} has ended" for router in routers if not router.running]


def streams_told_of_errors(attempts: list[Attempt]) -> int:
    """Streams that ended with an error event."""
    return sum(attempt.outcome == STREAM_ERROR for attempt in attempts)
