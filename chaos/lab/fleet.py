"""The routers and the simulated backends of a run: their files, their starts and ends, and what they tell operators."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .ground import Ground
from .http import ask
from .process import Process
from .waiting import TooLateError, eventually

# Secrets are canaries: none of them may turn up in any output.
CLIENT_KEY = "canary-client-key-4f1d9c2ab7"
ADMIN_TOKEN = "canary-admin-token-83b1c0d5ee"
PROVIDER_KEY = "canary-provider-key-0be7a66f19"
CLUSTER_SECRET = "canary-cluster-secret-5a20d94c77"
PROMPT_CANARY = "canary-prompt-e2c9b1f6d3"
CANARIES = {
    "client key": CLIENT_KEY,
    "admin token": ADMIN_TOKEN,
    "provider key": PROVIDER_KEY,
    "cluster secret": CLUSTER_SECRET,
    "prompt": PROMPT_CANARY,
}
ENVIRONMENT = {
    "CHAOS_CLIENT_KEY": CLIENT_KEY,
    "CHAOS_ADMIN_TOKEN": ADMIN_TOKEN,
    "CHAOS_PROVIDER_KEY": PROVIDER_KEY,
    "CHAOS_CLUSTER_SECRET": CLUSTER_SECRET,
    "LOG_LEVEL": "info",
    "RUST_LOG": "",
    "NO_COLOR": "1",
}

MODEL = "chaos-model"
API, ADMIN, GOSSIP, RELAY = 8080, 9090, 7946, 7947
CLUSTER_ID = "chaos"
REGIONS = [("us-west-2", "aws"), ("us-central1", "gcp"), ("eastus", "azure")]

Json = dict[str, Any]


class Mock(Process):
    """A simulated backend that keeps books."""

    def __init__(
        self, ground: Ground, place: str, name: str, host: int, binary: str, folder: Path, **settings: Any
    ) -> None:
        self.kind = settings.get("kind", "llama")
        self.region = settings.get("region", 0)
        self.slots = settings.get("slots", 16)
        self.ttft_ms = settings.get("ttft_ms", 20)
        self.tokens_per_second = settings.get("tokens_per_second", 100)
        self.address = (ground.places[place].address(host), 9000)
        command = [binary, "mock", "--kind", self.kind, "--listen", "{}:{}".format(*self.address), "--model", MODEL]
        command += ["--ttft-ms", str(self.ttft_ms), "--tokens-per-second", str(self.tokens_per_second)]
        command += ["--slots", str(self.slots)]
        if self.kind != "llama":
            command += ["--api-key", PROVIDER_KEY]
        super().__init__(ground, place, name, command, folder / f"{name}.log", ENVIRONMENT)
        # What it counted before it was killed, and whether some of it may be missing.
        self.past: Json = {"requests": 0, "input_tokens": 0, "output_tokens": 0}
        self.books_torn = False
        # It states other tokens than it used: the ledgers hold what was stated.
        self.misstates = False

    @property
    def url(self) -> str:
        """Where it listens."""
        return "http://{}:{}".format(*self.address)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.spawn()
        eventually(self.books, 15, f"{self.name} answers")

    def books(self) -> Json:
        """What it counted since it was started last."""
        status, body = ask(self.ground, self.place, self.address, "/mock/books")
        assert status == 200
        return json.loads(body)

    def all_books(self) -> Json:
        """What it counted since the run began."""
        now = self.books() if self.running else {}
        return {key: before + now.get(key, 0) for key, before in self.past.items()}

    def kill(self) -> None:
        """`kill -9`; its books are read before, but what it does in that moment is lost."""
        if self.running:
            try:
                now = self.books()
                self.past = {key: before + now[key] for key, before in self.past.items()}
            except (OSError, AssertionError):
                pass
            self.books_torn = True
        super().kill()

    def faults(self, *rules: Json) -> None:
        """Replaces its faults."""
        self._set("/mock/faults", list(rules))

    def speed(self, **settings: float) -> None:
        """Changes its pace: `ttftMs`, `tokensPerSecond`."""
        self._set("/mock/speed", settings)

    def _set(self, path: str, value: Any) -> None:
        status, body = ask(self.ground, self.place, self.address, path, method="POST", body=value)
        assert status == 200, f"{self.name}: {status} {body!r}"


class Router(Process):
    """One `llm-router serve` process."""

    def __init__(
        self, ground: Ground, place: str, name: str, host: int, binary: str, folder: Path, settings: Json
    ) -> None:
        self.folder = folder
        self.binary = binary
        self.file = folder / f"{name}.yaml"
        self.host = ground.places[place].address(host)
        self.address = (self.host, API)
        self.settings = settings
        self.ledger = folder / f"{name}.ledger" / "ledger.sqlite"
        self.write(settings)
        super().__init__(
            ground, place, name, [binary, "serve", "--config", str(self.file)], folder / f"{name}.log", ENVIRONMENT
        )
        self.kills = 0

    def write(self, settings: Json) -> None:
        """Puts another file in the place of the configuration, as editors do: by a rename. JSON is YAML."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(settings, indent=1))
        draft.replace(self.file)

    def start(self, within: float = 30) -> None:
        """Starts it and waits until it is ready."""
        self.spawn()
        self.wait_ready(within)

    def wait_ready(self, within: float = 30) -> None:
        """Waits until it takes requests."""

        def ready() -> bool:
            assert self.running, self.output()[-2000:]
            return self.ready()

        eventually(ready, within, f"{self.name} is ready")

    def kill(self) -> None:
        """`kill -9`."""
        self.kills += self.running
        super().kill()

    def ready(self) -> bool:
        """What `/readyz` says to somebody beside it."""
        return ask(self.ground, self.place, self.address, "/readyz")[0] == 200

    def admin(self, path: str, method: str = "GET", timeout: float = 5) -> tuple[int, bytes]:
        """Asks the operators' listener."""
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        return ask(self.ground, self.place, (self.host, ADMIN), path, method=method, headers=headers, timeout=timeout)

    def view(self) -> Json:
        """What it knows of the fleet."""
        status, body = self.admin("/admin/view")
        assert status == 200, f"{self.name}: /admin/view says {status}"
        return json.loads(body)

    def live(self) -> dict[str, int]:
        """The nodes it takes for alive, with their newest generation."""
        return live_members(self.view())

    def health(self, backend: str, observer: str | None = None) -> str | None:
        """A backend's health in this router's view, as itself or another router sees it."""
        return seen_health(self.view(), backend, observer or self.name)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; 0 where there is none."""
        return read_metric(self.metrics(), name, **labels)

    def metrics(self) -> str:
        """All of `/metrics`."""
        return self.admin("/metrics")[1].decode()

    def rows(self) -> list[sqlite3.Row]:
        """Every attempt in its ledger."""
        if not self.ledger.exists():
            return []
        connection = sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True, timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute("SELECT * FROM requests").fetchall()
        finally:
            connection.close()


def live_members(view: Json) -> dict[str, int]:
    """Live nodes of a view with their newest generation."""
    live: dict[str, int] = {}
    for member in view["members"]:
        if member["live"]:
            live[member["node"]] = max(member["generation"], live.get(member["node"], 0))
    return live


def seen_health(view: Json, backend: str, observer: str) -> str | None:
    """What a view says that an observer saw."""
    for entry in view["backends"]:
        if entry["name"] == backend:
            if observer == view["node"]:
                return (entry["own"] or {}).get("health")
            for fact in entry["peers"]:
                if fact["node"] == observer:
                    return fact["health"]
    return None


def picture(view: Json) -> Json:
    """What must be equal in the views of all nodes: who lives, and who sees which backend in which health."""
    live = live_members(view)
    facts = {}
    for entry in view["backends"]:
        if entry["own"]:
            facts[f"{entry['name']} by {view['node']}"] = entry["own"]["health"]
        for fact in entry["peers"]:
            if fact["node"] in live:
                facts[f"{entry['name']} by {fact['node']}"] = fact["health"]
    return {"live": live, "facts": facts}


def differences(pictures: dict[str, Json], names: set[str], expected: set[str]) -> list[str]:
    """Where views differ from each other or miss something, in words."""
    apart = []
    reference = next(iter(pictures.values()))
    for node, seen in pictures.items():
        if set(seen["live"]) != names:
            apart.append(f"{node} sees {sorted(seen['live'])} alive")
        missing = sorted(expected - set(seen["facts"]))
        if missing:
            apart.append(f"{node} does not know {missing[:3]}")
        for what in ("live", "facts"):
            for key, value in seen[what].items():
                if reference[what].get(key, value) != value:
                    apart.append(f"{node}: {key} is {value}, not {reference[what][key]}")
    return apart


SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def read_metric(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels in a text of Prometheus' format."""
    total = 0.0
    for line in text.splitlines():
        sample = SAMPLE.match(line)
        if sample and sample[1] == name:
            found = dict(LABEL.findall(sample[2] or ""))
            if all(found.get(label) == value for label, value in labels.items()):
                total += float(sample[3])
    return total


class Fleet:
    """Routers and backends over three regions."""

    def __init__(self, ground: Ground, binary: str, folder: Path, **shape: Any) -> None:
        """Shape: `nodes`, `clusters` per region, `cluster` and `provider` settings of mocks, `change` of a file."""
        self.ground = ground
        self.binary = binary
        self.folder = folder
        self.shape = shape
        self.certificates = folder / "certificates"
        self.mocks: list[Mock] = []
        self.routers: list[Router] = []
        self.make_certificates()
        self._lay_out()

    # --- layout -----------------------------------------------------------------------------------

    @staticmethod
    def places(nodes: int) -> list[str]:
        """The places a fleet needs: one for each router, the provider's, and one for clients of each region."""
        regions = [f"region-{index}" for index in range(max(3, nodes))]
        return [*regions, "provider", "clients-0", "clients-1", "clients-2"]

    def _lay_out(self) -> None:
        nodes = self.shape.get("nodes", 3)
        per_region = self.shape.get("clusters", 2)
        for region in range(3):
            for number in range(per_region):
                name = f"{REGIONS[region][1]}-cluster-{number}"
                self.mocks.append(
                    Mock(
                        self.ground,
                        f"region-{region}",
                        name,
                        101 + number,
                        self.binary,
                        self.folder,
                        region=region,
                        **self.shape.get("cluster", {}),
                    )
                )
        if self.shape.get("provider", True) is not None:
            settings = self.shape.get("provider") or {}
            self.mocks.append(
                Mock(
                    self.ground,
                    "provider",
                    "paid",
                    1,
                    self.binary,
                    self.folder,
                    **{"kind": "openai", "slots": 256, **settings},
                )
            )
        for index in range(nodes):
            name = self.node_name(index)
            self.issue(name)
        for index in range(nodes):
            name = self.node_name(index)
            (self.folder / f"{name}.ledger").mkdir(exist_ok=True)
            settings = self.settings(index, nodes)
            change = self.shape.get("change")
            if change is not None:
                change(settings, index)
            self.routers.append(Router(self.ground, f"region-{index}", name, 1, self.binary, self.folder, settings))

    @staticmethod
    def node_name(index: int) -> str:
        """A router's name, by its place in the fleet."""
        return f"{REGIONS[index % 3][1]}-{index // 3}"

    def settings(self, index: int, nodes: int) -> Json:
        """The file of one router."""
        region, cloud = REGIONS[index % 3]
        address = self.ground.places[f"region-{index}"].address()
        name = self.node_name(index)
        seeds = [f"{self.ground.places[f'region-{other}'].address()}:{GOSSIP}" for other in range(nodes)]
        return {
            "server": {"host": address, "port": API, "drainTimeout": "20s"},
            "node": {"name": name, "region": region, "cloud": cloud},
            "admin": {"listen": f"{address}:{ADMIN}", "token": "${CHAOS_ADMIN_TOKEN}"},
            "auth": {"keys": [{"id": "chaos", "key": "${CHAOS_CLIENT_KEY}", "tenant": "chaos"}], "openMetrics": True},
            "gossip": {
                "listen": f"{address}:{GOSSIP}",
                "seeds": [seed for other, seed in enumerate(seeds) if other != index][:4],
                "clusterId": CLUSTER_ID,
                "identity": {
                    "cert": f"certificates/{name}.pem",
                    "key": f"certificates/{name}.key",
                    "ca": "certificates/ca.pem",
                },
                "relay": {"listen": f"{address}:{RELAY}"},
            },
            "ledger": {"path": f"{name}.ledger/ledger.sqlite"},
            "router": {
                "routingStrategy": "cluster_first",
                "healthCheckInterval": "2s",
                "metricsUpdateInterval": "2s",
                "stickinessWindow": "0s",
                "calibrateThroughput": False,
            },
            "timeouts": {"connect": "2s", "firstByte": "10s", "idle": "10s", "total": "60s"},
            "clusters": [self._cluster(mock) for mock in self.mocks if mock.kind == "llama"],
            "externalProviders": [self._provider(mock) for mock in self.mocks if mock.kind == "openai"],
        }

    @staticmethod
    def _cluster(mock: Mock) -> Json:
        region, cloud = REGIONS[mock.region]
        return {
            "name": mock.name,
            "endpoint": mock.url,
            "region": region,
            "provider": cloud,
            "costPerHour": 0.1,
            "authType": "hmac",
            "sharedSecret": "${CHAOS_CLUSTER_SECRET}",
            "models": [{"name": MODEL}],
            "slots": mock.slots,
        }

    @staticmethod
    def _provider(mock: Mock) -> Json:
        return {
            "name": mock.name,
            "type": "openai",
            "apiKey": "${CHAOS_PROVIDER_KEY}",
            "baseURL": mock.url,
            "defaultModel": MODEL,
            "models": [{"name": MODEL, "price": {"input": 1.0, "output": 3.0}}],
        }

    # --- certificates -----------------------------------------------------------------------------

    def make_certificates(self) -> None:
        """An authority of the cluster's own."""
        self._command("certs", "init", "--dir", str(self.folder / "authority"), "--cluster-id", CLUSTER_ID)

    def issue(self, name: str, days: int = 90, authority: str = "authority") -> None:
        """A certificate for a node, in the place of the one it may have."""
        self._command(
            *("certs", "issue", "--dir", str(self.folder / authority), "--node", name),
            *("--days", str(days), "--out", str(self.certificates)),
        )

    def _command(self, *words: str) -> str:
        done = subprocess.run([self.binary, *words], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    # --- life -------------------------------------------------------------------------------------

    @property
    def processes(self) -> list[Process]:
        """All of them, backends first."""
        return [*self.mocks, *self.routers]

    def start(self) -> None:
        """Starts everything and waits until all routers see each other and every backend."""
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda mock: mock.start(), self.mocks))
            list(pool.map(lambda router: router.start(60), self.routers))
        self.wait_equal(60)

    def wait_equal(self, within: float, routers: list[Router] | None = None, every: float = 0.1) -> None:
        """Waits until the views of these routers are equal and tell of all of them."""
        routers = routers or [router for router in self.routers if router.running]
        names = {router.name for router in routers}

        expected = {f"{mock.name} by {name}" for mock in self.mocks for name in names}
        apart: list[str] = []

        def equal() -> bool:
            pictures = {view["node"]: picture(view) for view in self.views(routers)}
            apart[:] = differences(pictures, names, expected)
            return not apart

        try:
            eventually(equal, within, f"equal views of {sorted(names)}", every)
        except TooLateError as error:
            message = f"{error}: {'; '.join(apart[:6])}"
            raise TooLateError(message) from None

    def views(self, routers: list[Router] | None = None) -> list[Json]:
        """The views of these routers, asked at once."""
        routers = routers or [router for router in self.routers if router.running]
        with ThreadPoolExecutor(len(routers)) as pool:
            return list(pool.map(lambda router: router.view(), routers))

    def mock(self, name: str) -> Mock:
        """A backend by its name."""
        return next(mock for mock in self.mocks if mock.name == name)

    def stop(self) -> dict[str, int | None]:
        """Ends everything, routers first and politely; how each router ended."""
        with ThreadPoolExecutor(16) as pool:
            codes = list(pool.map(lambda router: router.terminate(), self.routers))
        for mock in self.mocks:
            Process.kill(mock)
        return {router.name: code for router, code in zip(self.routers, codes, strict=True)}
