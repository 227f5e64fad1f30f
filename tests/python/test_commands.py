"""The commands that end by themselves, and what `serve` does with a file it cannot use."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import settings
import yaml
from binary import Service, command
from process import free_port
from router import READY_WITHIN
from waiting import eventually

SEED = Path(__file__).with_name("seed.yaml")
SEED_ENVIRONMENT = {
    "OPENAI_API_KEY": "key-1",
    "ANTHROPIC_API_KEY": "key-2",
    "GEMINI_API_KEY": "key-3",
    "AWS_SHARED_SECRET": "secret-1",
    "GCP_SHARED_SECRET": "secret-2",
    "AZURE_SHARED_SECRET": "secret-3",
    "DEMO_PASSWORD": "a good password",
}
BAD_USAGE = 64


def write(folder: Path, content) -> str:
    file = folder / "router.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return str(file)


def bad_settings() -> dict:
    """Nine mistakes of nine kinds in one file."""
    good = settings.cluster("one", "http://127.0.0.1:9")
    file = settings.node(
        clusters=[
            good,
            {**good, "name": "one"},
            {**good, "name": "negative", "costPerHour": -1},
            {**good, "name": "nowhere", "endpoint": "not an address"},
            {**good, "name": "unsigned", "authType": "hmac"},
        ],
        providers=[
            settings.provider("keyless", "http://127.0.0.1:9", apiKey="${NOT_IN_THE_ENVIRONMENT}"),
            settings.provider("strange", "http://127.0.0.1:9", kind="oracle"),
        ],
    )
    file["router"]["healthCheckInterval"] = "soon"
    file["router"]["routingStrategy"] = "fastest"
    file["router"]["maxLatencyMss"] = 5_000
    return file


MISTAKES = [
    r"clusters\[1\]\.name: .*one",
    r"clusters\[2\]\.costPerHour: ",
    r"clusters\[3\]\.endpoint: ",
    r"clusters\[4\]\.sharedSecret: missing",
    r"externalProviders\[0\]\.apiKey: .*NOT_IN_THE_ENVIRONMENT",
    r"externalProviders\[1\]\.type: .*oracle",
    r"router\.healthCheckInterval: .*soon",
    r"router\.routingStrategy: .*fastest",
    r"router\.maxLatencyMss: .*unknown",
]


@pytest.mark.parametrize("name", ["check", "serve"])
def test_every_mistake_of_a_file_is_listed_with_its_path(tmp_path, name):
    done = command(name, "--config", write(tmp_path, bad_settings()))
    assert done.returncode == BAD_USAGE
    missing = [mistake for mistake in MISTAKES if not re.search(mistake, done.stderr)]
    assert missing == [], done.stderr


def test_a_value_of_the_wrong_type_is_refused_with_its_place(tmp_path):
    file = settings.node()
    file["server"]["port"] = "eighty"
    done = command("check", "--config", write(tmp_path, file))
    assert done.returncode == BAD_USAGE
    assert "port" in done.stderr


@pytest.mark.parametrize("text", ["", "server: [", "- a\n- b\n", "clusters: 7\n"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text):
    done = command("check", "--config", write(tmp_path, text))
    assert done.returncode == BAD_USAGE
    assert done.stderr.strip()


def test_a_file_that_is_not_there_is_named(tmp_path):
    done = command("check", "--config", str(tmp_path / "absent.yaml"))
    assert done.returncode == BAD_USAGE
    assert "absent.yaml" in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["serve"], ["fly"], ["demo", "--port", "many"], ["mock", "--kind", "cohere"]]
)
def test_bad_usage_is_told_on_standard_error(arguments):
    done = command(*arguments)
    assert done.returncode == BAD_USAGE
    assert done.stderr.strip() and not done.stdout.strip()


def test_a_good_file_passes(tmp_path):
    file = settings.node(
        clusters=[settings.cluster("one", "http://127.0.0.1:9", "model")],
        providers=[settings.provider("paid", "http://127.0.0.1:9")],
    )
    done = command("check", "--config", write(tmp_path, file))
    assert done.returncode == 0, done.stderr
    for secret in (settings.ADMIN_TOKEN, settings.PROVIDER_KEY):
        assert secret not in done.stdout + done.stderr


def test_the_problems_of_a_file_can_be_read_by_a_program(tmp_path):
    done = command("check", "--config", write(tmp_path, bad_settings()), "--json")
    assert done.returncode == BAD_USAGE and not done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is False and len(told["problems"]) == len(MISTAKES)
    assert all(problem["path"] and problem["message"] and problem["line"] for problem in told["problems"])


def test_a_mistyped_word_is_answered_with_the_one_that_was_meant():
    assert "'serve'" in command("sevre").stderr
    assert "'--config'" in command("check", "--confg", "a.yaml").stderr


def test_bash_completes_commands_options_and_words(tmp_path):
    script = tmp_path / "completions.bash"
    script.write_text(command("completions", "bash").stdout)

    def completed(*words: str) -> set[str]:
        """What bash would offer for the last word, by the function the script registered for the program."""
        lines = [
            f"source {shlex.quote(str(script))}",
            "registered=($(complete -p llm-router))",
            f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}",
            'for i in "${!registered[@]}"; do [[ ${registered[i]} == -F ]] && f=${registered[i + 1]}; done',
            f'"$f" llm-router {shlex.quote(words[-1])} {shlex.quote(words[-2])}',
            "printf '%s\\n' \"${COMPREPLY[@]}\"",
        ]
        done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=20, check=True)
        return set(done.stdout.split())

    assert completed("llm-router", "re") == {"replay"}
    assert {"--config", "--trace", "--json"} <= completed("llm-router", "replay", "--")
    assert completed("llm-router", "keys", "re") == {"revoke"}


def test_nothing_is_coloured_where_nobody_looks():
    for arguments in (["--help"], ["sevre"], ["replay", "--help"]):
        done = command(*arguments)
        assert "\x1b" not in done.stdout + done.stderr, arguments


def test_the_schema_describes_every_section_of_the_file():
    done = command("schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert {"server", "router", "clusters", "externalProviders", "demo", "node", "gossip", "admin"} <= set(
        schema["properties"]
    )


def test_a_start_that_fails_is_told_from_a_bad_file(tmp_path):
    """The address is taken: not a mistake of the file, hence not 64."""
    file = settings.node(providers=[settings.provider("paid", "http://127.0.0.1:9")])
    log = tmp_path / "first.log"
    first = Service("first", ["serve", "--config", write(tmp_path, file)], log)
    first.start()
    try:
        port = file["server"]["port"]
        eventually(lambda: answers(first, port), READY_WITHIN, "the first node serves")
        second = command("serve", "--config", str(tmp_path / "router.yaml"))
        assert second.returncode == 1
        assert str(port) in second.stderr + second.stdout or "address" in (second.stderr + second.stdout).lower()
        assert answers(first, port)
    finally:
        try:
            first.stop()
        finally:
            first.kill()


def answers(service: Service, port: int) -> bool:
    service.expect_running()
    return httpx.get(f"http://127.0.0.1:{port}/livez", timeout=5).status_code == 200


# --- a file of the system this one replaces -------------------------------------------------------


def test_a_seed_file_passes_unchanged():
    done = command("check", "--config", str(SEED), env=SEED_ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "4 clusters" in done.stdout and "2 providers" in done.stdout
    for secret in SEED_ENVIRONMENT.values():
        assert secret not in done.stdout + done.stderr


def test_a_seed_file_names_every_variable_that_is_missing():
    done = command("check", "--config", str(SEED))
    assert done.returncode == BAD_USAGE
    # The key of a provider that is not enabled is not needed.
    for name in SEED_ENVIRONMENT.keys() - {"GEMINI_API_KEY"}:
        assert name in done.stderr


def test_a_node_serves_with_a_seed_file_and_its_smart_mocks_answer(crew, tmp_path):
    """Unchanged but for the port. One of its clusters is simulated; the others cannot be reached."""
    port = free_port()
    text = SEED.read_text()
    assert "port: 8080" in text
    service = Service(
        "seed",
        ["serve", "--config", write(tmp_path, text.replace("port: 8080", f"port: {port}"))],
        crew.log("seed"),
        SEED_ENVIRONMENT,
    )
    crew.add(service)
    service.start()
    url = f"http://127.0.0.1:{port}"
    service.wait_until(lambda: httpx.get(f"{url}/readyz", timeout=5).status_code == 200, READY_WITHIN, "is ready")

    health = httpx.get(f"{url}/health", timeout=5).json()
    assert set(health) >= {
        "status",
        "healthy_clusters",
        "total_clusters",
        "healthy_providers",
        "total_providers",
        "timestamp",
    }
    assert (health["total_clusters"], health["total_providers"]) == (4, 2)
    told = datetime.fromisoformat(health["timestamp"])
    assert abs((datetime.now(UTC) - told).total_seconds()) < 60

    def chat():
        body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
        headers = {"x-llm-router-strategy": "cluster_first"}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=20)
        return answer if answer.status_code == 200 else None

    answer = eventually(chat, 15, "a simulated backend answers")
    assert answer.json()["choices"][0]["message"]["content"]
    metrics = httpx.get(f"{url}/metrics", timeout=5).text
    for name in ("llm_router_requests_total", "llm_router_cluster_health", "llm_router_routing_decisions_total"):
        assert f"\n{name}{{" in metrics


def test_the_demo_password_of_a_seed_file_is_really_checked(crew, tmp_path):
    port = free_port()
    text = SEED.read_text().replace("port: 8080", f"port: {port}")
    service = Service("seed", ["serve", "--config", write(tmp_path, text)], crew.log("seed"), SEED_ENVIRONMENT)
    crew.add(service)
    service.start()
    url = f"http://127.0.0.1:{port}"
    service.wait_until(lambda: httpx.get(f"{url}/livez", timeout=5).status_code == 200, READY_WITHIN, "is alive")
    assert httpx.post(f"{url}/api/auth", json={"password": "sixsix"}, timeout=5).status_code == 401
    good = httpx.post(f"{url}/api/auth", json={"password": SEED_ENVIRONMENT["DEMO_PASSWORD"]}, timeout=5)
    assert good.status_code == 200
