"""The exporters' chart: the real binary accepts each target's file, and gives figures and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from charts import Case, Object, cases, containers, of_kind, pod_templates, render, template
from live import Processes, eventually, free_port, get

CASES = cases("exporters")
DEFAULTS = CASES[0]
CLOUDS = Case("exporters", "values-three-clouds.yaml")


def _environment(pod: Object) -> dict[str, str]:
    (exporter,) = containers(pod)
    return {"PATH": os.environ["PATH"]} | {env["name"]: env.get("value", "a-word") for env in exporter["env"]}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_real_binary_accepts_each_exporter_s_file(case: Case, helm: Path, llm_router: Path, tmp_path: Path) -> None:
    objects = render(helm, case)
    for item, pod in zip(of_kind(objects, "ConfigMap"), pod_templates(objects), strict=True):
        file = tmp_path / "sidecar.yaml"
        file.write_text(item["data"]["sidecar.yaml"])
        command = [llm_router, "check", "--config", file]
        run = subprocess.run(command, env=_environment(pod), capture_output=True, text=True, timeout=20, check=False)
        assert run.returncode == 0, run.stdout + run.stderr


def test_an_exporter_gives_figures_and_is_no_way_to_the_machine(
    helm: Path, llm_router: Path, llama_server: Path, tiny_model: Path, tmp_path: Path, processes: Processes
) -> None:
    objects = render(helm, DEFAULTS)
    llama, port = free_port(), free_port()
    args = ["--model", tiny_model, "--port", str(llama), "--threads", "1", "--device", "none", "--ctx-size", "4096"]
    processes.start("llama", [llama_server, *args, "--parallel", "2", "--metrics"])
    text = of_kind(objects, "ConfigMap")[0]["data"]["sidecar.yaml"]
    text = text.replace("0.0.0.0:8443", f"127.0.0.1:{port}").replace("http://llama:8080", f"http://127.0.0.1:{llama}")
    (tmp_path / "sidecar.yaml").write_text(text)
    (pod,) = pod_templates(objects)
    processes.start("exporter", [llm_router, "sidecar", "--config", tmp_path / "sidecar.yaml"], _environment(pod))
    # Labels come in no fixed order.
    shows = re.compile(r"^llm_sidecar_slots\{.*cluster=\"llama\".*\} 2$", re.MULTILINE)
    eventually(
        lambda: bool(shows.search(get(port, "/metrics")[1])),
        within=30,
        what=lambda: processes.said() + get(port, "/metrics")[1],
    )
    assert "llm_sidecar_cost_per_hour" in get(port, "/metrics")[1]
    assert "llamacpp:tokens_predicted_total" in get(port, "/upstream/metrics")[1]
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", b"{}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=5)  # noqa: S310
    assert refused.value.code == 401


def test_llama_server_s_own_figures_get_the_names_of_their_cluster(helm: Path) -> None:
    for case in (CLOUDS, Case("llm-server", "values-gpu-gcp.yaml")):
        for monitor in of_kind(render(helm, case), "ServiceMonitor"):
            (endpoint,) = [item for item in monitor["spec"]["endpoints"] if item["path"] == "/upstream/metrics"]
            added = {rule["targetLabel"]: rule["replacement"] for rule in endpoint["relabelings"]}
            assert added.keys() == {"cluster", "provider", "region"}
            assert added["provider"] in ("aws", "gcp", "azure")


REFUSED = {
    "image.tag=latest": "changes under a running release",
    "targets[0].upstream=llama:8080": "does not match pattern",
    "targets[0].costPerHour=-1": "minimum: got -1, want 0",
    "targets[0].name=a b": "does not match pattern",
    "targets[0].cost=1": "additional properties 'cost' not allowed",
    "overheadFactor=0": "minimum: got 0, want 1",
}


@pytest.mark.parametrize(("values", "says"), REFUSED.items(), ids=list(REFUSED))
def test_a_wrong_value_fails_early_and_says_why(values: str, says: str, helm: Path) -> None:
    run = template(helm, CLOUDS if "cost=1" in values else DEFAULTS, "--set", values)
    assert run.returncode != 0
    assert says in run.stderr


def test_two_targets_of_one_name_are_refused(helm: Path, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    target = "{upstream: 'http://a:1', costPerHour: 1, provider: aws, region: r"
    file.write_text(f"targets: [{target}, name: a.b}}, {target}, name: a_b}}]\n")
    run = template(helm, DEFAULTS, "--values", str(file))
    assert run.returncode != 0
    assert "two entries that come to the name `a-b`" in run.stderr
