"""The chart of llama-server: a real llama-server takes its flags, the real sidecar its file, and its scripts work."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from charts import CHARTS, Case, Object, cases, containers, of_kind, pod_templates, render, template
from live import Processes, eventually, free_port, get

CASES = cases("llm-server")
DEFAULTS = CASES[0]
GPU = [Case("llm-server", f"values-gpu-{cloud}.yaml") for cloud in ("aws", "gcp", "azure")]
FILES = CHARTS / "llm-server/files"


def _pod(objects: list[Object]) -> Object:
    (pod,) = pod_templates(objects)
    return pod


def _container(objects: list[Object], name: str) -> Object:
    (found,) = [item for item in containers(_pod(objects)) if item["name"] == name]
    return found


def _data(objects: list[Object]) -> dict[str, str]:
    (config_map,) = of_kind(objects, "ConfigMap")
    return config_map["data"]


# --- llama-server -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_flag_is_one_of_the_real_llama_server(case: Case, helm: Path, llama_server: Path) -> None:
    run = subprocess.run([llama_server, "--help"], capture_output=True, text=True, check=True, timeout=20)
    known = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", run.stdout))
    used = {word for word in _container(render(helm, case), "llama")["args"] if word.startswith("-")}
    assert used <= known, f"unknown to llama-server: {used - known}"


@pytest.mark.parametrize("case", [DEFAULTS, GPU[0]], ids=str)
def test_a_real_llama_server_and_the_real_sidecar_serve_as_rendered(
    case: Case, helm: Path, llama_server: Path, llm_router: Path, tiny_model: Path, tmp_path: Path, processes: Processes
) -> None:
    objects = render(helm, case)
    llama, api = free_port(), free_port()
    args = [str(word) for word in _container(objects, "llama")["args"]]
    args[args.index("--model") + 1] = str(tiny_model)
    args[args.index("--port") + 1] = str(llama)
    args[args.index("--threads") + 1] = "1"
    processes.start("llama", [llama_server, *args, "--device", "none"])
    text = _data(objects)["sidecar.yaml"].replace("0.0.0.0:8443", f"127.0.0.1:{api}").replace(":8080", f":{llama}")
    # Its signatures are proven elsewhere.
    text = text.replace("authType: hmac", "authType: none")
    (tmp_path / "sidecar.yaml").write_text(text)
    command = [llm_router, *_container(objects, "sidecar")["args"][:2], tmp_path / "sidecar.yaml"]
    processes.start("sidecar", command, {"PATH": os.environ["PATH"], "CLUSTER_SECRET": "secret"})
    eventually(lambda: get(api, "/health")[0] == 200, within=30, what=processes.said)

    values = yaml.safe_load((CHARTS / "llm-server" / (case.values or "values.yaml")).read_text())["llama"]
    _, slots = get(llama, "/slots")
    slots = yaml.safe_load(slots)
    assert len(slots) == values["slots"]
    assert {slot["n_ctx"] for slot in slots} == {values["contextWindow"]}, "each slot has the whole context window"
    assert "llm_sidecar_slots" in get(api, "/metrics")[1]
    assert "llamacpp:requests_processing" in get(api, "/upstream/metrics")[1]
    body = b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}'
    request = urllib.request.Request(
        f"http://127.0.0.1:{api}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        assert yaml.safe_load(answer.read())["usage"]["completion_tokens"] == 3
    environment = {"PATH": os.environ["PATH"], "LLAMA_PORT": str(llama)}
    for script in ("alive.sh", "ready.sh"):
        assert subprocess.run(["sh", FILES / script], env=environment, timeout=20, check=False).returncode == 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_real_binary_accepts_the_sidecar_s_file(case: Case, helm: Path, llm_router: Path, tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(_data(render(helm, case))["sidecar.yaml"])
    environment = {"PATH": os.environ["PATH"], "CLUSTER_SECRET": "secret"}
    command = [llm_router, "check", "--config", file]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


# --- its scripts ------------------------------------------------------------------------------------


def test_the_scripts_are_sound_and_are_those_that_are_mounted(helm: Path) -> None:
    scripts = sorted(FILES.glob("*.sh"))
    run = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stdout
    data = _data(render(helm, DEFAULTS))
    for script in scripts:
        assert data[script.name].strip() == script.read_text().strip()
    named = set(re.findall(r"/etc/llm-server/([a-z]+\.sh)", str(_pod(render(helm, DEFAULTS)))))
    assert named == {script.name for script in scripts}


class _Llama(http.server.BaseHTTPRequestHandler):
    """Answers as llama-server would: `/health` with a status, `/metrics` with running requests, one list for both."""

    health = 200
    busy: list[int]

    def do_GET(self) -> None:
        """One answer."""
        if self.path == "/metrics":
            running = type(self).busy.pop(0) if len(type(self).busy) > 1 else type(self).busy[0]
            text = f"llamacpp:requests_processing {running}\nllamacpp:requests_deferred 0\n"
            self.send_response(200)
        else:
            text = "{}"
            self.send_response(type(self).health)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def address_string(self) -> str:
        """Without asking the name service."""
        return "test"

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class _Server(http.server.ThreadingHTTPServer):
    def server_bind(self) -> None:
        """Without the name service, which may take seconds."""
        http.server.socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "test", self.server_address[1]


@pytest.fixture
def llama() -> Iterator[type[_Llama]]:
    handler = type("Llama", (_Llama,), {"busy": [0], "port": 0})
    server = _Server(("127.0.0.1", 0), handler)
    handler.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield handler
    server.shutdown()
    server.server_close()


def _script(name: str, port: int, *arguments: str, within: float = 20) -> int:
    environment = {"PATH": os.environ["PATH"], "LLAMA_PORT": str(port)}
    run = subprocess.run(["sh", FILES / name, *arguments], env=environment, capture_output=True, timeout=within)
    return run.returncode


def test_a_loading_server_is_alive_and_not_ready_and_a_dead_one_is_neither(llama: type[_Llama]) -> None:
    llama.health = 503
    assert (_script("alive.sh", llama.port), _script("ready.sh", llama.port) != 0) == (0, True)
    llama.health = 200
    assert (_script("alive.sh", llama.port), _script("ready.sh", llama.port)) == (0, 0)
    llama.health = 500
    assert _script("alive.sh", llama.port) != 0
    dead = free_port()
    assert (_script("alive.sh", dead) != 0, _script("ready.sh", dead) != 0) == (True, True)


def test_a_server_is_held_until_its_last_answer_is_complete(llama: type[_Llama]) -> None:
    llama.busy = [2, 1, 0]
    started = time.monotonic()
    assert _script("drain.sh", llama.port, "0", "60") == 0
    assert time.monotonic() - started > 6, "two looks at a busy server, two at an idle one, two seconds each"


def test_a_server_is_held_no_longer_than_the_longest_stream(llama: type[_Llama]) -> None:
    llama.busy = [1]
    started = time.monotonic()
    assert _script("drain.sh", llama.port, "0", "3") == 0
    assert time.monotonic() - started < 8
    assert _script("drain.sh", free_port(), "0", "60", within=5) == 0, "nothing to wait for"


def test_a_stream_that_runs_while_the_pod_ends_is_complete(
    helm: Path, llama_server: Path, llm_router: Path, wide_model: Path, tmp_path: Path, processes: Processes
) -> None:
    """As Kubernetes ends a pod: the sidecar is told at once, llama-server when its hook has returned."""
    llama, api = free_port(), free_port()
    args = ["--model", wide_model, "--port", str(llama), "--threads", "1", "--device", "none", "--ctx-size", "4096"]
    server = processes.start("llama", [llama_server, *args, "--parallel", "1", "--metrics"])
    text = _data(render(helm, DEFAULTS))["sidecar.yaml"]
    text = text.replace("0.0.0.0:8443", f"127.0.0.1:{api}").replace(":8080", f":{llama}")
    (tmp_path / "sidecar.yaml").write_text(text)
    sidecar = processes.start("sidecar", [llm_router, "sidecar", "--config", tmp_path / "sidecar.yaml"])
    eventually(lambda: get(api, "/health")[0] == 200, within=30, what=processes.said)
    body = b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 600, "stream": true}'
    request = urllib.request.Request(
        f"http://127.0.0.1:{api}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        assert answer.readline().startswith(b"data: ")
        rest: list[bytes] = []
        reader = threading.Thread(target=lambda: rest.extend(answer), daemon=True)
        reader.start()
        sidecar.terminate()
        assert _script("drain.sh", llama, "0", "90", within=100) == 0
        server.terminate()
        reader.join(timeout=20)
    assert rest[-2:] == [b"data: [DONE]\n", b"\n"], processes.said()
    assert sidecar.wait(timeout=20) == 0
    assert get(api, "/health")[0] == 0


MODEL = b"GGUF" + bytes(1000)
SHA256 = hashlib.sha256(MODEL).hexdigest()
# Notes how it was called and what of the environment it saw, and leaves the file where the last argument says.
RCLONE = """#!/bin/sh
echo "$* header=${RCLONE_HEADER:-}" >>"$CALLS"
for last; do :; done
cp "$ORIGIN" "$last"
"""


class Download:
    """One pod's download, with a stub in the place of rclone."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.file = folder / "models/abc/model.gguf"
        stub = folder / "bin/rclone"
        stub.parent.mkdir()
        stub.write_text(RCLONE)
        stub.chmod(0o755)
        origin = folder / "origin"
        origin.write_bytes(MODEL)
        self.environment = {
            "PATH": f"{stub.parent}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "ORIGIN": str(origin),
            "MODEL_FILE": str(self.file),
            "MODEL_SHA256": SHA256,
            "POD_NAME": "llama-1",
        }

    def run(self, uri: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Runs the script."""
        environment = self.environment | {"MODEL_URI": uri} | more
        command = ["sh", FILES / "download.sh"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)

    def called(self) -> list[str]:
        """How rclone was called."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def download(tmp_path: Path) -> Download:
    return Download(tmp_path)


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("s3://bucket/dir/m.gguf", ":s3,provider=AWS,env_auth=true,region=eu-west-1:bucket/dir/m.gguf"),
        ("gs://bucket/dir/m.gguf", ":gcs,env_auth=true,bucket_policy_only=true:bucket/dir/m.gguf"),
        ("azblob://account/box/dir/m.gguf", ":azureblob,account=account,env_auth=true:box/dir/m.gguf"),
        ("https://example.com/m.gguf?download=true", "https://example.com/m.gguf?download=true"),
    ],
    ids=["s3", "gs", "azblob", "https"],
)
def test_a_model_comes_from_every_kind_of_store(uri: str, source: str, download: Download) -> None:
    run = download.run(uri, MODEL_S3_REGION="eu-west-1")
    assert run.returncode == 0, run.stdout + run.stderr
    (call,) = download.called()
    assert f" {source} " in call
    assert call.startswith("copyurl " if uri.startswith("https") else "copyto ")
    assert download.file.read_bytes() == MODEL


def test_a_model_that_was_checked_is_not_fetched_again(download: Download) -> None:
    for _ in range(2):
        assert download.run("s3://bucket/m.gguf").returncode == 0
    assert len(download.called()) == 1
    # A file that stands there unchecked, half written by whomever, is no model.
    download.file.with_name("model.gguf.sha256").unlink()
    assert download.run("s3://bucket/m.gguf").returncode == 0
    assert len(download.called()) == 2


def test_another_file_than_the_checksum_s_is_never_served(download: Download) -> None:
    run = download.run("s3://bucket/m.gguf", MODEL_SHA256="0" * 64)
    assert run.returncode == 1
    assert SHA256 in run.stdout
    assert "model.sha256 is 000" in run.stdout
    assert [path.name for path in download.file.parent.iterdir()] == []


def test_a_token_is_not_on_the_command_line(download: Download) -> None:
    assert download.run("https://example.com/m.gguf", MODEL_TOKEN="hush").returncode == 0
    command, _, header = download.called()[0].partition(" header=")
    assert "hush" not in command
    assert header == "Authorization: Bearer hush"


def test_an_unknown_store_is_refused(download: Download) -> None:
    run = download.run("ftp://example.com/m.gguf")
    assert run.returncode == 64
    assert "expected s3://, gs://, azblob:// or https://" in run.stdout


# --- how it ends, scales and what it refuses ------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_llama_server_outlives_its_sidecar_and_both_their_longest_stream(case: Case, helm: Path) -> None:
    objects = render(helm, case)
    spec = _pod(objects)["spec"]
    drain = int(yaml.safe_load(_data(objects)["sidecar.yaml"])["sidecar"]["drainTimeout"].removesuffix("s"))
    before = _container(objects, "sidecar")["lifecycle"]["preStop"]["sleep"]["seconds"]
    *_, held_from, longest = _container(objects, "llama")["lifecycle"]["preStop"]["exec"]["command"]
    assert int(held_from) > before, "llama-server would look for the last answer while new ones still come"
    assert drain > int(longest)
    assert spec["terminationGracePeriodSeconds"] > before + drain
    assert spec["terminationGracePeriodSeconds"] > int(held_from) + int(longest) + 5


@pytest.mark.parametrize("case", GPU, ids=str)
def test_a_gpu_server_scales_from_nothing_on_the_routers_demand(case: Case, helm: Path) -> None:
    objects = render(helm, case)
    (scaled,) = of_kind(objects, "ScaledObject")
    spec = scaled["spec"]
    assert spec["minReplicaCount"] == 0
    assert "replicas" not in of_kind(objects, "Deployment")[0]["spec"], "two hands on the number of replicas"
    cluster = yaml.safe_load(_data(objects)["sidecar.yaml"])["sidecar"]["name"]
    demand, load = (trigger["metadata"] for trigger in spec["triggers"])
    assert f'llm_router_cluster_demand{{backend="{cluster}"}}' in demand["query"]
    assert f'llm_sidecar_in_flight{{cluster="{cluster}"' in load["query"]
    assert demand["activationThreshold"] == "0"
    assert all(isinstance(value, str) for value in (demand | load).values())
    llama = _container(objects, "llama")
    assert llama["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "cuda" in llama["image"]
    pod = _pod(objects)["spec"]
    assert "nvidia.com/gpu" in {toleration["key"] for toleration in pod["tolerations"]}
    assert pod["nodeSelector"]


def test_a_cpu_server_scales_on_its_cpu_and_its_queue(helm: Path) -> None:
    objects = render(helm, Case("llm-server", "values-cpu.yaml"))
    (scaler,) = of_kind(objects, "HorizontalPodAutoscaler")
    cpu, queue = scaler["spec"]["metrics"]
    assert cpu["containerResource"]["container"] == "llama"
    assert queue["pods"]["metric"]["name"] == "llm_sidecar_queue_depth"
    assert of_kind(objects, "PodDisruptionBudget")


def test_two_models_never_share_a_file(helm: Path) -> None:
    files = set()
    for sha256 in ("a" * 64, "b" * 64):
        objects = render(helm, DEFAULTS, "--set", f"model.sha256={sha256}")
        env = {item["name"]: item.get("value") for item in _container(objects, "model")["env"]}
        args = _container(objects, "llama")["args"]
        assert args[args.index("--model") + 1] == env["MODEL_FILE"]
        files.add(env["MODEL_FILE"])
    assert len(files) == 2


REFUSED = {
    "replicas=2": "cannot share a claim of one machine",
    "llama.image.tag=server": "changes under a running release",
    "sidecar.image.tag=latest": "changes under a running release",
    "model.sha256=abc": "/model/sha256': 'abc' does not match pattern",
    "model.uri=http://example.com/m.gguf": "/model/uri",
    "gpu.enabled=true": "paid and not used",
    "gpu.enabled=true,llama.gpuLayers=99": "is a build for CPUs",
    "llama.gpuLayers=99": "gpu.enabled is false",
    "autoscaling.kind=hpa,autoscaling.minReplicas=0,model.storage.kind=ephemeral": "set autoscaling.kind: keda",
    "autoscaling.kind=keda,autoscaling.minReplicas=9,model.storage.kind=ephemeral": "above autoscaling.maxReplicas",
    "autoscaling.kind=magic": "value must be one of 'none', 'hpa', 'keda'",
    "ingress.enabled=true": "ingress.host is empty",
    "ingress.enabled=true,ingress.host=a.example.com": "whoever finds the host could use the machine",
    "llama.extraArgs={--ctx-size=9}": "--ctx-size, which the chart sets itself",
    "llama.slots=0": "minimum: got 0, want 1",
    "llama.resources.requests.memory=3GB": "does not match pattern",
    "llama.contxtWindow=1": "additional properties 'contxtWindow' not allowed",
}


@pytest.mark.parametrize(("values", "says"), REFUSED.items(), ids=list(REFUSED))
def test_a_wrong_value_fails_early_and_says_why(values: str, says: str, helm: Path) -> None:
    run = template(helm, DEFAULTS, "--set", values)
    assert run.returncode != 0
    assert says in run.stderr
