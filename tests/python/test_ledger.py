"""The ledger's command line on a running router, and its file after kill -9, a full disk and a slow start."""

import contextlib
import csv
import io
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import threading
import time

import httpx
import pytest
from binary import binary

ROUNDS = int(os.environ.get("LEDGER_CRASHES", "8"))
WORDS = "tell me something " * 20


class Processes:
    """Routers and mocks of one test, stopped at its end."""

    def __init__(self, directory):
        self.directory = directory
        self.running = []

    def spawn(self, *arguments, **options):
        """Starts a command with its output in a file."""
        with (self.directory / f"log-{len(self.running)}.txt").open("wb") as log:
            process = subprocess.Popen([binary(), *arguments], stdout=log, stderr=log, **options)
        self.running.append(process)
        return process

    def mock(self, port, tokens_per_second=2000):
        """Starts an OpenAI mock and returns its address."""
        self.spawn(
            "mock", "--kind", "openai", "--listen", f"127.0.0.1:{port}", "--model", "gpt", "--ttft-ms", "2",
            "--tokens-per-second", str(tokens_per_second), "--slots", "64",
        )  # fmt: skip
        wait_for(f"http://127.0.0.1:{port}/mock/books")
        return f"http://127.0.0.1:{port}"

    def stop(self):
        """Kills what still runs."""
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait(10)


@pytest.fixture
def processes(tmp_path):
    started = Processes(tmp_path)
    yield started
    started.stop()


def wait_for(url, deadline=20):
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"{url} does not answer")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def configure(directory, port, mock, ledger, posture="degraded", patience="60s"):
    path = directory / "router.yaml"
    path.write_text(
        f"""
server: {{host: 127.0.0.1, port: {port}}}
ledger: {{path: "{ledger}", commitTimeout: {patience}, posture: {posture}}}
externalProviders:
  - {{name: openai, type: openai, apiKey: k, baseURL: "{mock}",
     models: [{{name: gpt, price: {{input: 1, output: 2}}}}]}}
"""
    )
    return path


def serve(processes, config, port, **options):
    process = processes.spawn("serve", "--config", str(config), **options)
    wait_for(f"http://127.0.0.1:{port}/readyz")
    return process


def chat(url, stream=False, text=WORDS, timeout=10):
    body = {"model": "gpt", "stream": stream, "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=timeout)


def ledger_command(*arguments, code=0):
    done = subprocess.run([binary(), "ledger", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def report(config, *arguments):
    return json.loads(ledger_command("report", "--config", str(config), "--json", *arguments))


def settled(config, requests):
    """The report once it holds so many requests."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        told = report(config)
        if told["total"]["requests"] == requests:
            return told
        time.sleep(0.05)
    raise AssertionError(told)


def test_the_commands_work_while_the_router_runs(processes, tmp_path):
    mock_port, port = free_ports(2)
    mock = processes.mock(mock_port)
    config = configure(tmp_path, port, mock, tmp_path / "ledger.sqlite")
    serve(processes, config, port)
    for n in range(10):
        assert chat(f"http://127.0.0.1:{port}", stream=n % 2 == 0).status_code == 200
    told = settled(config, 10)
    books = httpx.get(f"{mock}/mock/books").json()
    assert told["total"]["input_tokens"] == books["input_tokens"]
    assert told["total"]["output_tokens"] == books["output_tokens"]
    pico = books["input_tokens"] * 1_000_000 + books["output_tokens"] * 2_000_000
    assert told["total"]["cost_pico_usd"] == pico
    assert told["total"]["cost_usd"] == pytest.approx(pico / 1e12)

    rows = list(
        csv.DictReader(io.StringIO(ledger_command("report", "--config", str(config), "--csv", "--by", "tenant,day")))
    )
    assert [row["requests"] for row in rows] == ["10"]
    table = ledger_command("report", "--ledger", str(tmp_path / "ledger.sqlite"))
    assert "openai" in table and "net savings" in table
    assert json.loads(ledger_command("verify", "--config", str(config), "--json"))["whole"] is True

    export = tmp_path / "usage.csv"
    day = rows[0]["day"]
    export.write_text(
        f"day,model,input_tokens,output_tokens\n{day},gpt,{books['input_tokens']},{books['output_tokens']}\n"
    )
    assert "0 differ" in ledger_command("reconcile", str(export), "--config", str(config))
    export.write_text(f"day,model,input_tokens,output_tokens\n{day},gpt,{books['input_tokens'] * 2},1\n")
    assert "BEYOND" in ledger_command("reconcile", str(export), "--config", str(config), code=1)
    export.write_text("nonsense\n")
    ledger_command("reconcile", str(export), "--config", str(config), code=64)
    ledger_command("report", code=64)
    ledger_command("report", "--ledger", str(tmp_path / "none"), code=1)

    # As a person opens it.
    with sqlite3.connect(f"file:{tmp_path / 'ledger.sqlite'}?mode=ro", uri=True) as file:
        outcomes = file.execute("SELECT outcome, count(*) FROM requests GROUP BY 1").fetchall()
    assert outcomes == [("served", 10)]


def load(url, stop, done):
    client = httpx.Client(timeout=10)
    body = {"model": "gpt", "stream": True, "messages": [{"role": "user", "content": WORDS}]}
    while not stop.is_set():
        try:
            with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                text = "".join(answer.iter_text())
            if answer.status_code == 200 and text.endswith("data: [DONE]\n\n"):
                done.append(1)
        except httpx.HTTPError:
            time.sleep(0.01)


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_kill_9_under_load_loses_nothing_settled_and_counts_nothing_twice(processes, tmp_path):
    """All requests have the same tokens, so that every sum tells a number of requests.

    Posture `closed` also rules out that a request reaches the mock before its intent is on disk.
    """
    mock_port, port = free_ports(2)
    mock = processes.mock(mock_port, tokens_per_second=400)
    ledger = tmp_path / "ledger.sqlite"
    config = configure(tmp_path, port, mock, ledger, posture="closed")
    url = f"http://127.0.0.1:{port}"
    each = None
    recovered_before = 0
    for number in range(ROUNDS):
        router = serve(processes, config, port)
        stop, done = threading.Event(), []
        threads = [threading.Thread(target=load, args=(url, stop, done)) for _ in range(8)]
        for thread in threads:
            thread.start()
        # Under load, and at another moment of it each time.
        end = time.monotonic() + 20
        while len(done) < 10 + number and time.monotonic() < end:
            time.sleep(0.003 * (number % 4 + 1))
        router.send_signal(signal.SIGKILL)
        router.wait(10)
        stop.set()
        for thread in threads:
            thread.join(15)
        assert done, "no load"

        # The next start settles what was open.
        again = serve(processes, config, port)
        again.send_signal(signal.SIGTERM)
        assert again.wait(30) == 0
        assert json.loads(ledger_command("verify", "--config", str(config), "--json"))["whole"] is True

        end = time.monotonic() + 10
        while (books := httpx.get(f"{mock}/mock/books").json())["in_flight"] and time.monotonic() < end:
            time.sleep(0.05)
        each = each or (books["input_tokens"] // books["requests"], books["output_tokens"] // books["requests"])
        with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as file:
            rows = file.execute(
                "SELECT outcome, recovered, count(*), sum(input_tokens), sum(output_tokens), sum(cost_pico) "
                "FROM requests GROUP BY 1, 2"
            ).fetchall()
            unsettled = file.execute("SELECT count(*) FROM intents WHERE settled = 0").fetchone()[0]
        by = {(outcome, recovered): figures for outcome, recovered, *figures in rows}
        served, recovered = by[("served", 0)], by.get(("unknown", 1), [0, 0, 0, 0])
        assert unsettled == 0
        # Exact where settled: each served answer once, with its tokens and its price.
        assert served[1:3] == [served[0] * each[0], served[0] * each[1]]
        assert served[3] == served[1] * 1_000_000 + served[2] * 2_000_000
        # Whatever reached the mock is in the books, as settled or as recovered, and nothing else is.
        assert served[0] <= books["requests"] <= served[0] + recovered[0]
        assert books["received"] <= served[0] + recovered[0]
        assert recovered[0] - recovered_before <= 16, "more recovered than could be under way"
        recovered_before = recovered[0]
    print(f"{ROUNDS} kills: {served[0]} served, {recovered[0]} recovered, {books['requests']} completed by the mock")


def test_an_answer_seen_to_its_end_was_announced_on_disk_before(processes, tmp_path):
    mock_port, port = free_ports(2)
    mock = processes.mock(mock_port)
    ledger = tmp_path / "ledger.sqlite"
    config = configure(tmp_path, port, mock, ledger)
    router = serve(processes, config, port)
    with httpx.stream(
        "POST",
        f"http://127.0.0.1:{port}/v1/chat/completions",
        timeout=10,
        json={"model": "gpt", "stream": True, "messages": [{"role": "user", "content": WORDS}]},
    ) as answer:
        next(answer.iter_raw())
        router.send_signal(signal.SIGKILL)
    router.wait(10)
    copy = tmp_path / "copy.sqlite"
    with sqlite3.connect(ledger) as file:
        assert file.execute("SELECT count(*) FROM intents").fetchone()[0] == 1
        file.execute("VACUUM INTO ?", [str(copy)])


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 3 MiB, where mounting one is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def refuses(url):
    answer = chat(url)
    return answer.status_code == 503 and answer.json()["error"]["code"] == "ledger_unavailable"


def test_a_full_disk_refuses_paid_backends_until_there_is_room(processes, tmp_path, small_disk):
    mock_port, port = free_ports(2)
    mock = processes.mock(mock_port)
    config = configure(tmp_path, port, mock, small_disk / "ledger.sqlite")
    router = serve(processes, config, port)
    url = f"http://127.0.0.1:{port}"
    assert chat(url).status_code == 200
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    served = 1
    for _ in range(400):
        if refuses(url):
            break
        served += 1
    assert refuses(url), "the disk is full and nothing is refused"
    received = httpx.get(f"{mock}/mock/books").json()["received"]
    assert refuses(url)
    assert httpx.get(f"{mock}/mock/books").json()["received"] == received, "nothing paid was begun"
    assert "llm_router_ledger_sound 0" in httpx.get(f"{url}/metrics").text
    filler.unlink()
    end = time.monotonic() + 20
    while (status := chat(url).status_code) != 200 and time.monotonic() < end:
        time.sleep(0.1)
    assert status == 200
    router.send_signal(signal.SIGTERM)
    assert router.wait(30) == 0
    assert json.loads(ledger_command("verify", "--config", str(config), "--json"))["whole"] is True
    # What each served answer cost is there, whenever it was written.
    books = httpx.get(f"{mock}/mock/books").json()
    with sqlite3.connect(f"file:{small_disk / 'ledger.sqlite'}?mode=ro", uri=True) as file:
        tokens = file.execute(
            "SELECT sum(input_tokens), sum(output_tokens) FROM requests WHERE NOT recovered AND input_tokens > 0"
        ).fetchone()
    assert tokens == (books["input_tokens"], books["output_tokens"])


def test_a_file_that_may_not_grow_refuses_and_stays_whole(processes, tmp_path):
    mock_port, port = free_ports(2)
    mock = processes.mock(mock_port)
    config = configure(tmp_path, port, mock, tmp_path / "ledger.sqlite")

    def bounded():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (160 * 1024, 160 * 1024))

    router = serve(processes, config, port, preexec_fn=bounded)
    url = f"http://127.0.0.1:{port}"
    assert any(refuses(url) for _ in range(300))
    assert httpx.get(f"{url}/livez").status_code == 200
    router.send_signal(signal.SIGKILL)
    router.wait(10)
    # The limit is gone with the process: the next one goes on from what was written.
    serve(processes, config, port)
    assert chat(url).status_code == 200
    assert json.loads(ledger_command("verify", "--config", str(config), "--json"))["whole"] is True


def test_a_read_only_disk_refuses_paid_backends_until_it_can_be_written(processes, tmp_path, small_disk):
    mock_port, port = free_ports(2)
    mock = processes.mock(mock_port)
    config = configure(tmp_path, port, mock, small_disk / "ledger.sqlite")
    router = serve(processes, config, port)
    url = f"http://127.0.0.1:{port}"
    assert chat(url).status_code == 200
    settled(config, 1)
    # A file held open for writing keeps a file system from turning read-only here, so the router starts on one.
    router.send_signal(signal.SIGTERM)
    assert router.wait(30) == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    router = serve(processes, config, port)
    received = httpx.get(f"{mock}/mock/books").json()["received"]
    assert refuses(url) and refuses(url)
    assert httpx.get(f"{mock}/mock/books").json()["received"] == received, "nothing paid was begun"
    assert httpx.get(f"{url}/livez").status_code == 200
    assert report(config)["total"]["requests"] == 1, "it can be read all the same"
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    end = time.monotonic() + 20
    while (status := chat(url).status_code) != 200 and time.monotonic() < end:
        time.sleep(0.1)
    assert status == 200
    router.send_signal(signal.SIGTERM)
    assert router.wait(30) == 0
    assert json.loads(ledger_command("verify", "--config", str(config), "--json"))["whole"] is True


def test_sqlite3_open_on_the_file_by_hand_holds_nobody_up(processes, tmp_path):
    mock_port, port = free_ports(2)
    mock = processes.mock(mock_port)
    ledger = tmp_path / "ledger.sqlite"
    config = configure(tmp_path, port, mock, ledger)
    serve(processes, config, port)
    url = f"http://127.0.0.1:{port}"
    assert chat(url).status_code == 200
    settled(config, 1)
    # A person who reads, and leaves the transaction open.
    reader = sqlite3.connect(ledger, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM requests").fetchone() == (1,)
    for n in range(20):
        assert chat(url, stream=n % 2 == 0).status_code == 200
    assert settled(config, 21)["total"]["requests"] == 21
    assert reader.execute("SELECT count(*) FROM requests").fetchone() == (1,), "as of when it began to read"
    reader.execute("ROLLBACK")
    # A person who writes, and is slow: requests wait, none is refused.
    writer = sqlite3.connect(ledger, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(chat(url).status_code))
    waiting.start()
    waiting.join(1)
    assert not answers, "its intent is not on disk"
    writer.execute("ROLLBACK")
    waiting.join(10)
    assert answers == [200]
    assert settled(config, 22)["total"]["requests"] == 22
    # Views with dollars, for people.
    cost, external = reader.execute("SELECT sum(cost_usd), sum(external_usd) FROM requests").fetchone()
    assert 0 < cost == pytest.approx(external)
    assert reader.execute("SELECT sum(cost_usd) FROM daily").fetchone()[0] == pytest.approx(cost)
    assert reader.execute("SELECT count(*) FROM machine_days").fetchone() == (0,)
    for connection in (reader, writer):
        connection.close()


def test_a_disk_that_is_too_slow_refuses_in_time_and_what_it_took_in_is_written(processes, tmp_path):
    """A lock held by another writer is a disk that takes that long, as the router sees it."""
    mock_port, port = free_ports(2)
    mock = processes.mock(mock_port)
    ledger = tmp_path / "ledger.sqlite"
    config = configure(tmp_path, port, mock, ledger, patience="500ms")
    serve(processes, config, port)
    url = f"http://127.0.0.1:{port}"
    assert chat(url).status_code == 200
    settled(config, 1)
    slow = sqlite3.connect(ledger, isolation_level=None)
    slow.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    assert refuses(url)
    assert time.monotonic() - began < 4
    slow.execute("ROLLBACK")
    slow.close()
    end = time.monotonic() + 20
    while (status := chat(url).status_code) != 200 and time.monotonic() < end:
        time.sleep(0.1)
    assert status == 200
    # Those that were refused have their row where the mock worked for them.
    received = httpx.get(f"{mock}/mock/books").json()["received"]
    end = time.monotonic() + 10
    while (told := report(config)["total"])["attempts"] < received and time.monotonic() < end:
        time.sleep(0.05)
    assert told["errors"] >= 1
    assert told["attempts"] >= received
    assert json.loads(ledger_command("verify", "--config", str(config), "--json"))["whole"] is True


def test_a_price_changed_by_a_reload_charges_what_comes_after_it_and_each_charge_names_its_table(processes, tmp_path):
    mock_port, port = free_ports(2)
    mock = processes.mock(mock_port)
    ledger = tmp_path / "ledger.sqlite"
    config = configure(tmp_path, port, mock, ledger)
    table = tmp_path / "prices.json"
    row = {"kind": "openai", "model": "gpt", "input": 3, "output": 4, "capabilities": ["chat"]}
    row |= {"source": "a test", "date": "2026-11-23"}
    router = serve(processes, config, port)
    url = f"http://127.0.0.1:{port}"

    def reload_until(expected):
        """Asks until an answer is charged so; each one before is charged by the old price."""
        router.send_signal(signal.SIGHUP)
        end = time.monotonic() + 15
        while time.monotonic() < end:
            answer = chat(url)
            usage = answer.json()["usage"]
            told = answer.headers["x-llm-router-cost-usd"]
            cost = usage["prompt_tokens"] * expected[0] + usage["completion_tokens"] * expected[1]
            if told != "unpriced" and round(float(told) * 1e12) == cost * 10**6:
                return
            time.sleep(0.1)
        raise AssertionError(told)

    reload_until((1, 2))
    text = config.read_text()
    # A file of prices of one's own, then a price in the configuration, which wins over it.
    table.write_text(json.dumps({"models": [row]}))
    config.write_text(text.replace(", price: {input: 1, output: 2}", "") + f'pricesFile: "{table}"\n')
    reload_until((3, 4))
    config.write_text(text.replace("{input: 1, output: 2}", "{input: 5, output: 6}") + f'pricesFile: "{table}"\n')
    reload_until((5, 6))
    # Nobody knows a price: told, counted, flagged, and charged as unknown, not as nothing.
    config.write_text(text.replace(", price: {input: 1, output: 2}", ""))
    router.send_signal(signal.SIGHUP)
    end = time.monotonic() + 15
    while chat(url).headers["x-llm-router-cost-usd"] != "unpriced" and time.monotonic() < end:
        time.sleep(0.1)
    end = time.monotonic() + 10
    while report(config)["total"]["unpriced"] < 1 and time.monotonic() < end:
        time.sleep(0.05)
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as file:
        charged = file.execute(
            "SELECT p.price, count(*) FROM requests r JOIN prices p USING (price_table, backend, model) GROUP BY 1"
        ).fetchall()
        nothing, unknown = file.execute(
            "SELECT sum(price_table IS NULL AND NOT unpriced), sum(unpriced AND cost_usd IS NULL) FROM requests"
        ).fetchone()
        assert file.execute("SELECT count(DISTINCT price_table) FROM requests").fetchone() == (3,)
    assert len(charged) == 3, charged
    assert nothing == 0
    assert unknown >= 1
    # Counted by an actor of its own, after the row is written.
    end = time.monotonic() + 10
    while "llm_router_unpriced_requests_total" not in httpx.get(f"{url}/metrics").text:
        assert time.monotonic() < end, "an unpriced request is not counted"
        time.sleep(0.05)
    assert json.loads(ledger_command("verify", "--config", str(config), "--json"))["whole"] is True
