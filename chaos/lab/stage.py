"""One run of one scenario: what it stands on, what it does, what was measured and whether it held."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import checks
from .fleet import Fleet, Router, picture
from .ground import Ground, stand
from .load import ANSWERED, Attempt, Load, Request, Target
from .waiting import TooLateError, eventually

# Decisions a router keeps: it is warm once it has made more of them.
DECISIONS_KEPT = 1_000


@dataclass(frozen=True)
class Scenario:
    """What is done, what is expected, and the bound. `run` does it."""

    what: str
    expected: str
    bound: str
    run: Callable[[Stage], None]
    # Needs the switch between places.
    wan: bool = False
    # Programs that must be installed.
    programs: tuple[str, ...] = ()
    # The shape of the fleet, as `Fleet` takes it.
    shape: dict[str, Any] = field(default_factory=dict)
    # In the selection of the test command.
    quick: bool = False
    # Memory is compared with the warm baseline.
    memory: bool = True
    # More places than the fleet's own.
    places: tuple[str, ...] = ()
    # The fleet is started before `run`.
    started: bool = True


@dataclass(frozen=True)
class Figure:
    """Something measured, with its bound in words."""

    name: str
    value: float | int | str
    unit: str
    bound: str
    holds: bool


@dataclass
class Options:
    """What the person who runs it chose."""

    nodes: int = 3
    minutes: float | None = None
    seed: int = 1
    ground: str = "auto"
    binary: str = ""
    switch: Callable[[], str] = lambda: ""
    quick: bool = False


class Stage:
    """The ground, the fleet, the clients and the notes of one run."""

    def __init__(self, name: str, scenario: Scenario, options: Options, folder: Path) -> None:
        self.name = name
        self.scenario = scenario
        self.options = options
        self.folder = folder
        self.random = random.Random(options.seed)
        self.loads: list[Load] = []
        self.notes: list[tuple[float, str]] = []
        self.figures: list[Figure] = []
        self.wrong: list[tuple[str, list[str]]] = []
        self.excuses: list[checks.Excuse] = []
        self.baseline: dict[str, int] = {}
        self.started = time.monotonic()
        self.ended = self.started
        # Closed at the end, whatever happens.
        self.also: list[Callable[[], object]] = []
        self.views_equal = True
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        places = [*Fleet.places(options.nodes), *scenario.places]
        wanted = "namespaces" if scenario.wan else options.ground
        self.ground: Ground
        self.ground, self.why_loopback = stand(places, folder, options.switch, wanted)
        self.fleet: Fleet

    # --- for scenarios ------------------------------------------------------------------------------

    @property
    def routers(self) -> list[Router]:
        """The fleet's routers."""
        return self.fleet.routers

    def minutes(self, default: float) -> float:
        """How long to go on, in minutes."""
        return self.options.minutes if self.options.minutes is not None else default

    def note(self, text: str) -> None:
        """Something happened: it is drawn and listed."""
        self.notes.append((time.monotonic(), text))

    def figure(self, name: str, value: float | str, unit: str = "", bound: str = "", holds: bool = True) -> None:
        """Something was measured."""
        self.figures.append(Figure(name, value, unit, bound, bool(holds)))

    def at_most(self, name: str, value: float, most: float, unit: str = "") -> None:
        """Something was measured and has an upper bound."""
        self.figure(name, round(value, 4), unit, f"≤ {most:g}", value <= most)

    def at_least(self, name: str, value: float, least: float, unit: str = "") -> None:
        """Something was measured and has a lower bound."""
        self.figure(name, round(value, 4), unit, f"≥ {least:g}", value >= least)

    def targets(self, first: int | None = None) -> Callable[[], list[Target]]:
        """Where clients ask: each region's clients its own router, then the next region's; or all one router."""
        turn = iter(range(1 << 60))

        def choose() -> list[Target]:
            at = next(turn) % len(self.routers) if first is None else first
            following = [at, (at + 1) % len(self.routers)]
            place = f"clients-{at % 3}"
            return [Target(self.routers[i].name, self.routers[i].address, place) for i in following]

        return choose

    def load(self, **settings: Any) -> Load:
        """Starts clients; they are ended with the run at the latest."""
        first = settings.pop("first", None)
        targets = settings.pop("targets", None) or self.targets(first)
        load = Load(self.ground, targets, seed=self.options.seed + len(self.loads), **settings).start()
        self.loads.append(load)
        return load

    def excuse(self, router: Router | str, since: float | None = None, until: float = float("inf")) -> int:
        """From now on clients of that router may see it break: it is taken away on purpose."""
        name = router if isinstance(router, str) else router.name
        self.excuses.append((name, time.monotonic() if since is None else since, until))
        return len(self.excuses) - 1

    def excuse_ends(self, index: int) -> None:
        """From now on they may not any more."""
        name, since, _ = self.excuses[index]
        self.excuses[index] = (name, since, time.monotonic())

    def rest(self, seconds: float) -> None:
        """Lets that time pass under load."""
        time.sleep(seconds)

    def kill(self, router: Router) -> int:
        """`kill -9`, told to the checks."""
        index = self.excuse(router)
        self.note(f"kill -9 {router.name}")
        router.kill()
        return index

    def bring_back(self, router: Router, index: int) -> None:
        """Starts a killed router again."""
        router.start()
        self.excuse_ends(index)
        self.note(f"{router.name} is back")

    def seconds_until(self, condition: Callable[[], Any], within: float, what: str, every: float = 0.02) -> float:
        """How long it took until the condition held; `within` and a note if it did not."""
        started = time.monotonic()
        try:
            eventually(condition, within, what, every)
        except TooLateError as error:
            self.wrong.append(("in time", [str(error)]))
            return within
        return time.monotonic() - started

    def converged(self, within: float = 20) -> float:
        """Seconds until all running routers see each other, every backend, and the same; told as a figure."""
        started = time.monotonic()
        try:
            self.fleet.wait_equal(within, every=0.05)
        except TooLateError as error:
            self.wrong.append(("views converge", [str(error)]))
        took = time.monotonic() - started
        self.note("views are equal")
        return took

    def far(self, loss: float = 0.05) -> None:
        """The three regions, and the provider, as far from each other as continents: 80, 120 and 150 ms round trip."""
        pairs = [(0, 1, 80), (1, 2, 120), (0, 2, 150)]
        names = [name for name in self.ground.places if name.startswith("region-")]
        for one in range(len(names)):
            for other in range(one):
                rtt = next((ms for a, b, ms in pairs if {one % 3, other % 3} == {a, b}), 2)
                rules = {"delay_us": rtt * 500, "jitter_us": rtt * 20, "loss": loss if rtt > 2 else 0}
                self.ground.both(names[one], names[other], **rules)
        for name in names:
            self.ground.both(name, "provider", delay_us=15_000, loss=loss)
        self.note(f"80 to 150 ms between regions, {loss:.0%} loss")

    def broken_at_home(self) -> int:
        """Streams that broke although router and backend share a region: nothing between them was touched."""
        region = {mock.name: mock.place for mock in self.fleet.mocks}
        home = {router.name: router.place for router in self.routers}
        return sum(
            attempt.ended_at is not None
            and attempt.outcome not in (ANSWERED, "typed error")
            and region.get(attempt.backend or "") == home[attempt.router]
            and not checks.excused(attempt, self.excuses)
            for attempt in self.attempts()
        )

    def views_are_equal(self, routers: list[Router] | None = None) -> bool:
        """Whether these routers see the same."""
        pictures = [picture(view) for view in self.fleet.views(routers)]
        return all(other == pictures[0] for other in pictures[1:])

    def attempts(self) -> list[Attempt]:
        """Every attempt of every client."""
        return [attempt for load in self.loads for request in load.requests for attempt in request.attempts]

    def requests(self) -> list[Request]:
        """Every request of every client."""
        return [request for load in self.loads for request in load.requests]

    # --- around scenarios ---------------------------------------------------------------------------

    def warm(self) -> None:
        """Fills what is kept for a while (decisions, pools), then notes the memory of each router."""
        settings: dict[str, Any] = {"workers": 32, "max_tokens": 1, "stream_share": 0.2}
        load = Load(self.ground, self.targets(), seed=99, **settings).start()
        wanted = DECISIONS_KEPT * len(self.routers) * 1.1
        deadline = time.monotonic() + 40
        while len(load.requests) < wanted and time.monotonic() < deadline:
            time.sleep(0.2)
        load.end()
        # The same load as the scenario's, for its buffers.
        time.sleep(3)
        self.baseline = {router.name: router.memory_kb() for router in self.routers}

    def play(self) -> None:
        """The whole run: start, faults, invariants, end."""
        try:
            self.fleet = Fleet(
                self.ground, self.options.binary, self.folder, **{"nodes": self.options.nodes, **self.scenario.shape}
            )
            if self.scenario.started:
                self.fleet.start()
            if self.scenario.memory and self.scenario.started and not self.options.quick:
                self.warm()
            self.started = time.monotonic()
            self.scenario.run(self)
            self._finish()
        except Exception as error:  # noqa: BLE001 - a scenario that breaks is a scenario that failed
            self.wrong.append(("the run itself", [f"{error!r}", traceback.format_exc()[-1500:]]))
        finally:
            self.ended = time.monotonic()
            self._close()

    def _finish(self) -> None:
        with ThreadPoolExecutor(max(1, len(self.loads))) as pool:
            list(pool.map(lambda load: load.end(), self.loads))
        attempts = self.attempts()
        self._hold("no router ended by itself", checks.all_run([r for r in self.routers if r.starts]))
        self._hold("every request answered or a typed error", checks.every_request_is_answered(attempts, self.excuses))
        by_length: dict[int, list[Attempt]] = {}
        for load in self.loads:
            for request in load.requests:
                by_length.setdefault(load.max_tokens, []).extend(request.attempts)
        for group in by_length.values():
            self._hold("an answer is of one piece", checks.every_answer_is_of_one_piece(group))
        running = [router for router in self.routers if router.running]
        if self.views_equal and len(running) > 1:
            took = self.seconds_until(lambda: self.views_are_equal(running), 10, "equal views at the end", 0.1)
            self.figure("views equal after the end", round(took, 2), "s", "≤ 10", took < 10)
        with contextlib.suppress(TooLateError):
            eventually(lambda: not checks.ledgers_equal_books(self.fleet), 8, "books", 0.5)
        self._hold("ledger equals the backends' books", checks.ledgers_equal_books(self.fleet))
        # Before operators' pages are read: a page of 200 decisions alone is megabytes for a moment.
        if self.baseline:
            self._memory()
        self._hold("no secret in any output", checks.no_secret_is_told(self.fleet, attempts))
        codes = self.fleet.stop()
        self._hold("a router ends well when asked", [f"{n} ended with {c}" for n, c in codes.items() if c != 0])
        self._hold("the ledgers add up", checks.ledgers_add_up(self.fleet))
        self._hold("nothing panicked", checks.nothing_panicked(self.fleet))

    def _memory(self) -> None:
        deadline = time.monotonic() + 15
        while checks.memory_is_back(self.fleet, self.baseline) and time.monotonic() < deadline:
            time.sleep(0.5)
        pairs = [(r.memory_kb(), self.baseline[r.name]) for r in self.routers if r.running and r.name in self.baseline]
        if pairs:
            worst = max(now / before for now, before in pairs)
            self.figure("memory against warm, worst router", round(worst, 3), "times", "≤ 1.1", worst <= 1.1)
        self._hold("memory is back", checks.memory_is_back(self.fleet, self.baseline))

    def _hold(self, invariant: str, wrong: list[str]) -> None:
        self.wrong.append((invariant, wrong))

    def _close(self) -> None:
        if hasattr(self, "fleet"):
            for process in self.fleet.processes:
                if process.running:
                    process.signal(18)
                    process.signal(9)
                    process.child.wait(20)
        for load in self.loads:
            load.abandon()
        for close in self.also:
            try:
                close()
            except Exception as error:  # noqa: BLE001 - the others must be closed too
                self.wrong.append(("closing", [repr(error)]))
        self.ground.close()

    @property
    def holds(self) -> bool:
        """Whether everything held."""
        return all(figure.holds for figure in self.figures) and not any(wrong for _, wrong in self.wrong)

    def complaints(self) -> list[str]:
        """What did not hold, in sentences."""
        broken = [f"{f.name}: {f.value} {f.unit}, bound {f.bound}" for f in self.figures if not f.holds]
        return broken + [f"{name}: {text}" for name, wrong in self.wrong for text in wrong]

    def result(self) -> dict[str, Any]:
        """Everything worth keeping, as JSON."""
        attempts = self.attempts()
        outcomes: dict[str, int] = {}
        for attempt in attempts:
            outcomes[attempt.outcome] = outcomes.get(attempt.outcome, 0) + 1
        return {
            "scenario": self.name,
            "what": self.scenario.what,
            "expected": self.scenario.expected,
            "bound": self.scenario.bound,
            "holds": self.holds,
            "ground": self.ground.kind,
            "why_loopback": self.why_loopback,
            "nodes": self.options.nodes,
            "seed": self.options.seed,
            "seconds": round(self.ended - self.started, 1),
            "requests": len(self.requests()),
            "answered": sum(request.served for request in self.requests()),
            "outcomes": outcomes,
            "figures": [vars(figure) for figure in self.figures],
            "invariants": sorted({name for name, _ in self.wrong}),
            "complaints": self.complaints(),
            "notes": [[round(at - self.started, 2), text] for at, text in self.notes],
        }


def percentile(values: list[float], percent: float) -> float:
    """The value below which so many percent lie; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def served(requests: list[Request]) -> list[Attempt]:
    """The attempts that answered."""
    return [attempt for request in requests for attempt in request.attempts if attempt.outcome == ANSWERED]
