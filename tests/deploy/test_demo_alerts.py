"""A real Prometheus with the rules we ship reads a demo in which things are broken, and tells of each.

The rules are those of charts/router/files/rules, in one respect transformed: every `for` and every range in
brackets is a thirtieth of what it says, since a test cannot wait ten minutes. Expressions, thresholds and names
are as they are.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from charts import CHARTS
from live import Processes, eventually, free_port, get, send

RULES = sorted((CHARTS / "router/files/rules").glob("*.yaml"))
SHORTER = 30
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
REGIONS = {"us-west-2": "aws", "us-central1": "gcp", "eastus": "azure"}
FIRES_WITHIN = 55.0
ENDS_WITHIN = 60.0
# What stands for money rather than for something broken; the demo's tenants do spend theirs.
OF_MONEY = {"LlmBudgetNearlySpent", "LlmBudgetSpent", "LlmSpendDoubled"}


def shortened(text: str) -> str:
    """Rules with every `for` and every range a thirtieth as long, and at least three seconds."""

    def short(match: re.Match[str]) -> str:
        seconds = int(match["number"]) * SECONDS[match["unit"]]
        return f"{match['before']}{max(3, seconds // SHORTER)}s{match['after']}"

    text = re.sub(r"(?P<before>for: )(?P<number>\d+)(?P<unit>[smhd])(?P<after>\n)", short, text)
    return re.sub(r"(?P<before>\[)(?P<number>\d+)(?P<unit>[smhd])(?P<after>\])", short, text)


def test_only_times_differ_from_what_is_shipped() -> None:
    for file in RULES:
        shipped, ours = yaml.safe_load(file.read_text()), yaml.safe_load(shortened(file.read_text()))
        assert shipped != ours
        for group, other in zip(shipped["groups"], ours["groups"], strict=True):
            for rule, short in zip(group["rules"], other["rules"], strict=True):
                assert rule.keys() == short.keys()
                assert rule.get("labels") == short.get("labels")
                bare = re.compile(r"\[\d+[smhd]\]")
                assert bare.sub("[]", rule["expr"]) == bare.sub("[]", short["expr"])


class Stage:
    """A demo, and a Prometheus that reads its three routers once a second."""

    def __init__(self, processes: Processes, folder: Path, llm_router: Path, prometheus: Path) -> None:
        self.processes = processes
        first = free_run(3)
        self.ports = dict(zip(REGIONS, range(first, first + 3), strict=True))
        command = [llm_router, "demo", "--port", str(first), "--no-open", "--duration", "10m"]
        processes.start("demo", command, {**os.environ, "LOG_LEVEL": "warn"})
        for port in self.ports.values():
            eventually(lambda port=port: get(port, "/readyz")[0] == 200, 40, processes.said)
        rules = []
        for file in RULES:
            ours = folder / file.name
            ours.write_text(shortened(file.read_text()))
            rules.append(str(ours))
        targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"pod": f"{REGIONS[region]}-router", "namespace": "llm"}}
            for region, port in self.ports.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            "scrape_configs": [{"job_name": "router", "static_configs": targets}],
        }
        file = folder / "prometheus.yaml"
        file.write_text(yaml.safe_dump(config))
        self.prometheus = free_port()
        options = [f"--config.file={file}", f"--storage.tsdb.path={folder}/data", "--log.level=warn"]
        options.append(f"--web.listen-address=127.0.0.1:{self.prometheus}")
        processes.start("prometheus", [prometheus, *options])
        eventually(lambda: self.value('sum(up{job="router"})') == 3, 40, processes.said)

    def ask(self, path: str) -> dict:
        """An answer of Prometheus; empty while there is none."""
        status, text = get(self.prometheus, path)
        return json.loads(text)["data"] if status == 200 else {}

    def value(self, expression: str) -> float | None:
        """What an expression comes to now."""
        found = self.ask(f"/api/v1/query?query={urllib.parse.quote(expression)}").get("result", [])
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> list[dict[str, str]]:
        """The labels of every alert that fires."""
        alerts = self.ask("/api/v1/alerts").get("alerts", [])
        return [alert["labels"] for alert in alerts if alert["state"] == "firing"]

    def fires(self, name: str, **labels: str) -> None:
        """Waits until an alert with these labels fires."""
        self.fires_one_of({"alertname": name, **labels})

    def fires_one_of(self, *wanted: dict[str, str]) -> None:
        """Waits until an alert with one of these sets of labels fires."""
        eventually(
            lambda: any(labels.items() <= one.items() for labels in wanted for one in self.firing()),
            FIRES_WITHIN,
            lambda: f"one of {wanted}; firing: {self.firing()}",
        )

    def ends(self, name: str) -> None:
        """Waits until it fires no more."""
        eventually(
            lambda: all(one["alertname"] != name for one in self.firing()),
            ENDS_WITHIN,
            lambda: f"{name} ends; firing: {self.firing()}",
        )

    @contextlib.contextmanager
    def broken(self, kind: str, target: str) -> Iterator[None]:
        """Something broken by the page's button, and mended after."""
        self.press("POST", kind, target)
        try:
            yield
        finally:
            self.press("DELETE", kind, target)

    def press(self, method: str, kind: str, target: str) -> None:
        """Presses a button of the first region's page."""
        path, page = f"/ui/demo/{kind}/{target}", {"x-llm-router-page": "1"}
        assert send(self.ports["us-west-2"], method, path, headers=page) == 202

    @contextlib.contextmanager
    def asked(self, count: int, **headers: str) -> Iterator[None]:
        """Short requests at the first region from `count` clients at once, for as long as this lasts."""
        ended = threading.Event()
        body = json.dumps({"model": "assistant", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]})
        named = {f"x-llm-router-{name}": value for name, value in headers.items()}

        def ask() -> None:
            while not ended.is_set():
                # What is broken answers with errors: that is the point.
                with contextlib.suppress(OSError, http.client.HTTPException):
                    send(self.ports["us-west-2"], "POST", "/v1/chat/completions", body, named)
                time.sleep(0.1)

        clients = [threading.Thread(target=ask, daemon=True) for _ in range(count)]
        for client in clients:
            client.start()
        yield
        ended.set()
        for client in clients:
            client.join(40)


def free_run(length: int) -> int:
    """The first of some free ports in a row."""
    for _ in range(100):
        first = free_port()
        if first + length < 65_536 and all(get(first + at, "/")[0] == 0 for at in range(length)):
            return first
    message = "no free ports in a row"
    raise AssertionError(message)


@pytest.fixture
def on_stage(processes: Processes, tmp_path: Path, llm_router: Path, prometheus: Path) -> Stage:
    """A demo under a Prometheus."""
    return Stage(processes, tmp_path, llm_router, prometheus)


def test_what_the_demo_s_buttons_break_is_told(on_stage: Stage) -> None:
    # Long enough for whatever is not broken to be told, were it told.
    eventually(lambda: (on_stage.value("count_over_time(up[30s])") or 0) >= 14, 40, "fifteen scrapes")
    before = {one["alertname"] for one in on_stage.firing()} - OF_MONEY
    assert before == set(), "nothing is broken yet"

    with on_stage.broken("outage", "openai"), on_stage.asked(2, backend="openai"):
        on_stage.fires("LlmRouterErrorsHigh", severity="page")
    on_stage.ends("LlmRouterErrorsHigh")
    on_stage.ends("LlmRouterNothingTried")
    with on_stage.broken("slow", "azure-cpu"), on_stage.asked(4, backend="azure-cpu", strategy="cluster_first"):
        # Who insists on a slow cluster waits too long there, or is refused once it is known to be too slow.
        slow = {"alertname": "LlmRouterTimeToFirstTokenHigh", "backend": "azure-cpu"}
        on_stage.fires_one_of(slow, {"alertname": "LlmRouterNothingTried"})
    with on_stage.broken("kill", "us-central1"):
        on_stage.fires("LlmRouterDown", pod="gcp-router", severity="page")
    on_stage.ends("LlmRouterDown")
    with on_stage.broken("partition", "eastus"):
        on_stage.fires("LlmRouterAlone", pod="azure-router")
        on_stage.fires("LlmRouterSplit", namespace="llm")
    on_stage.ends("LlmRouterAlone")
