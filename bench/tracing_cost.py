#!/usr/bin/env python3
"""What tracing costs: CPU of a router per request with tracing off, at 1 % and at 100 %.

    cargo build --release && python3 bench/tracing_cost.py

One simulated backend, a collector that takes everything, and three routers over them that differ in nothing but
tracing, each with a ledger and a peer to gossip with. They are asked in turns, in another order each round, so that
whatever else the machine does hits all of them. CPU is what the kernel says the router's threads ran, less what it
runs when nobody asks. Prints the median over the rounds, in microseconds a request, and what tracing adds.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = "tiny"
VARIANTS = {"off": None, "1 %": 0.01, "100 %": 1.0}
BODY = json.dumps({"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "Say something short."}]})
STARTS_WITHIN_S = 20
# Longer than a batch of spans waits for others.
SETTLES_S = 1.3
IDLE_S = 3.0


class Sink(http.server.BaseHTTPRequestHandler):
    """A collector that takes whatever comes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Takes one batch."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def free_port() -> int:
    """A port that was free a moment ago, for TCP and most likely UDP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_s(pid: int) -> float:
    """Seconds that the threads of a process have run."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Rig:
    """Everything that runs."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.binary, self.folder = binary, folder
        self.children: list[subprocess.Popen[bytes]] = []
        self.collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
        threading.Thread(target=self.collector.serve_forever, daemon=True).start()
        backend = free_port()
        speed = ["--slots", "64", "--ttft-ms", "1", "--tokens-per-second", "5000", "--model", MODEL]
        self.start("mock", ["mock", "--kind", "llama", "--listen", f"127.0.0.1:{backend}", *speed])
        wait_for(backend, "/health")
        self.routers = {name: self.router(name, ratio, backend) for name, ratio in VARIANTS.items()}

    def start(self, name: str, arguments: list[str]) -> int:
        """Starts the binary and returns its process id."""
        with (self.folder / f"{name.replace(' ', '')}.log").open("wb") as log:
            env = {**os.environ, "LOG_LEVEL": "error"}
            child = subprocess.Popen([self.binary, *arguments], stdout=log, stderr=log, env=env)
        self.children.append(child)
        return child.pid

    def router(self, name: str, ratio: float | None, backend: int) -> tuple[int, int]:
        """A router and its peer; returns the router's port and process id."""
        gossip = [free_port(), free_port()]
        pids, ports = [], [free_port(), free_port()]
        for nth, port in enumerate(ports):
            stem = f"{name.replace(' ', '').replace('%', '')}-{nth}"
            traces = ""
            if ratio is not None:
                address = f"http://127.0.0.1:{self.collector.server_port}"
                traces = f"telemetry: {{traces: {{endpoint: '{address}', sampler: traceidratio, ratio: {ratio}}}}}\n"
            file = self.folder / f"{stem}.yaml"
            file.write_text(
                f"server: {{host: 127.0.0.1, port: {port}}}\nnode: {{name: node-{stem}, region: r}}\n{traces}"
                f"gossip: {{listen: '127.0.0.1:{gossip[nth]}', seeds: ['127.0.0.1:{gossip[1 - nth]}'], "
                f"clusterId: c{stem[:-2]}}}\n"
                f"ledger: {{path: {self.folder}/{stem}.sqlite, posture: observe}}\n"
                f"clusters: [{{name: own, endpoint: 'http://127.0.0.1:{backend}', region: r, provider: aws, "
                f"costPerHour: 1, authType: none, models: [{{name: {MODEL}}}]}}]\n"
            )
            pids.append(self.start(stem, ["serve", "--config", str(file)]))
            wait_for(port, "/readyz")
        return ports[0], pids[0]

    def stop(self) -> None:
        """Ends what was started."""
        for child in self.children:
            child.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
        self.collector.shutdown()


def wait_for(port: int, path: str) -> None:
    """Waits until somebody answers there with 200."""
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"nobody answers at 127.0.0.1:{port}{path}: look into the logs beside the configurations")


def ask(port: int, requests: int, clients: int) -> None:
    """So many requests over so many connections."""
    failed = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(requests // clients):
            connection.request("POST", "/v1/chat/completions", BODY, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                failed.append(answer.status)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit(f"{len(failed)} requests failed, the first with {failed[0]}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/llm-router")
    parser.add_argument("--requests", type=int, default=2000, help="of one variant in one round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracing-cost-") as folder:
        rig = Rig(options.binary.resolve(), Path(folder))
        try:
            report(rig, options)
        finally:
            rig.stop()


def report(rig: Rig, options: argparse.Namespace) -> None:
    """Asks in turns and prints what each variant took."""
    for port, _ in rig.routers.values():
        ask(port, options.requests // 2, options.clients)
    time.sleep(SETTLES_S)
    idle = {name: cpu_s(pid) for name, (_, pid) in rig.routers.items()}
    time.sleep(IDLE_S)
    idle = {name: (cpu_s(pid) - idle[name]) / IDLE_S for name, (_, pid) in rig.routers.items()}
    taken: dict[str, list[float]] = {name: [] for name in VARIANTS}
    order = list(VARIANTS)
    for _ in range(options.rounds):
        random.shuffle(order)
        for name in order:
            port, pid = rig.routers[name]
            before, began = cpu_s(pid), time.monotonic()
            ask(port, options.requests, options.clients)
            time.sleep(SETTLES_S)
            ran = cpu_s(pid) - before - idle[name] * (time.monotonic() - began)
            taken[name].append(ran / options.requests * 1e6)
    base = statistics.median(taken["off"])
    print(f"{options.rounds} rounds of {options.requests} requests over {options.clients} connections")
    print(f"{'tracing':<8} {'µs/request':>10} {'least':>8} {'most':>8} {'adds':>8}")
    for name, values in taken.items():
        middle = statistics.median(values)
        print(f"{name:<8} {middle:>10.1f} {min(values):>8.1f} {max(values):>8.1f} {(middle / base - 1) * 100:>7.1f}%")


if __name__ == "__main__":
    main()
