"""What Argo CD applies: overlays built by real kubectl, charts rendered by real Helm with the regions' values."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import schemas
import yaml
from charts import complete

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
INFRA = ROOT / "infra"
PLATFORM = json.loads((INFRA / "common" / "platform.json").read_text())
MODELS = json.loads((DEPLOY / "models" / "models.json").read_text())
REGIONS = [(env, key) for env in PLATFORM["environments"] for key in PLATFORM["regions"]]
OVERLAYS = sorted(path.parent.name for path in (DEPLOY / "overlays").glob("*/kustomization.yaml"))
REPOSITORY = "https://git.example.com/llm-router.git"
Object = dict[str, Any]


def platformctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the program, whatever comes of it."""
    command = [str(INFRA / "platformctl"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT)


def build(kubectl: Path, folder: Path) -> list[Object]:
    """The objects of an overlay."""
    run = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, f"{folder}: {run.stderr}"
    return [item for item in yaml.safe_load_all(run.stdout) if item]


def distinct(objects: list[Object]) -> list[Object]:
    """Each object once: what many overlays share needs to be checked once."""
    return list({json.dumps(item, sort_keys=True): item for item in objects}.values())


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Those of one kind."""
    return [item for item in objects if item["kind"] == kind]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The overlays as they are once the production stacks have put out their addresses."""
    folder = tmp_path_factory.mktemp("deploy")
    for name in ("base", "components"):
        shutil.copytree(DEPLOY / name, folder / name)
    for name in ("dev", "prod"):
        shutil.copytree(DEPLOY / "overlays" / name, folder / "overlays" / name)
    run = platformctl("--outputs", str(INFRA / "tests"), "values", "--into", str(folder / "overlays"))
    assert run.returncode == 0, run.stderr
    return folder / "overlays"


# --- overlays ------------------------------------------------------------------------------------


def test_the_regions_folders_are_what_the_shared_files_make() -> None:
    run = platformctl("values", "--check")
    assert run.returncode == 0, run.stderr


def test_a_folder_edited_by_hand_and_one_of_a_region_that_is_no_more_are_found(tmp_path: Path) -> None:
    platformctl("values", "--into", str(tmp_path))
    (tmp_path / "prod-aws-us-west-2" / "router.yaml").write_text("replicas: 9\n")
    (tmp_path / "prod-aws-mars-1").mkdir()
    (tmp_path / "prod-aws-mars-1" / "router.yaml").write_text("replicas: 9\n")
    run = platformctl("values", "--check", "--into", str(tmp_path))
    assert run.returncode == 64
    assert run.stderr.splitlines()[:2] == [
        "stale: prod-aws-mars-1/router.yaml",
        "stale: prod-aws-us-west-2/router.yaml",
    ]


def test_every_overlay_builds_and_every_object_is_valid(kubectl: Path, recorded: Path) -> None:
    objects = []
    for folder in [*(DEPLOY / "overlays" / name for name in OVERLAYS), *recorded.glob("prod-*")]:
        made = build(kubectl, folder)
        assert made, folder
        objects += made
    assert not (found := schemas.problems(distinct(objects))), "\n".join(found)


@pytest.mark.parametrize(("env", "key"), REGIONS)
def test_a_region_says_who_it_is_on_every_object(env: str, key: str, kubectl: Path) -> None:
    for item in build(kubectl, DEPLOY / "overlays" / f"{env}-{key}"):
        labels = item["metadata"]["labels"]
        assert labels["llm-router/environment"] == env
        assert labels["llm-router/region"] == key


@pytest.mark.parametrize("key", PLATFORM["regions"])
def test_the_values_name_a_storage_class_that_the_region_has(key: str, kubectl: Path) -> None:
    folder = DEPLOY / "overlays" / f"prod-{key}"
    (made,) = of_kind(build(kubectl, folder), "StorageClass")
    assert made["volumeBindingMode"] == "WaitForFirstConsumer"
    for file in ("llm-server-cpu.yaml", "llm-server-gpu.yaml"):
        values = yaml.safe_load((folder / file).read_text())
        assert values["model"]["storage"]["storageClassName"] == made["metadata"]["name"]


@pytest.mark.parametrize(("env", "key"), REGIONS)
def test_every_secret_the_values_name_is_fetched(env: str, key: str, kubectl: Path) -> None:
    folder = DEPLOY / "overlays" / f"{env}-{key}"
    made = {
        (item["metadata"]["namespace"], item["spec"]["target"]["name"]): {
            one["secretKey"] for one in item["spec"]["data"]
        }
        for item in of_kind(build(kubectl, folder), "ExternalSecret")
    }
    router = yaml.safe_load((folder / "router.yaml").read_text())
    assert router["auth"]["apiKey"]["key"] in made[("llm-router", router["auth"]["apiKey"]["name"])]
    assert made[("llm-router", "shared-tls")] == {"tls.crt", "tls.key"}
    for pool in ("cpu", "gpu"):
        secret = yaml.safe_load((folder / f"llm-server-{pool}.yaml").read_text())["sidecar"]["secret"]
        assert secret["key"] in made[("llm-models", secret["name"])]


def test_no_secret_lies_in_the_repository(kubectl: Path, recorded: Path) -> None:
    for folder in [*(DEPLOY / "overlays" / name for name in OVERLAYS), *recorded.glob("prod-*")]:
        assert not of_kind(build(kubectl, folder), "Secret"), folder


# --- GPUs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_what_gpus_need_goes_where_the_pool_is(cloud: str, kubectl: Path) -> None:
    objects = build(kubectl, DEPLOY / "overlays" / f"gpu-{cloud}")
    plugins = of_kind(objects, "DaemonSet")
    assert len(plugins) == (0 if cloud == "gcp" else 1), "GKE brings its own device plugin, EKS and AKS do not"
    scheduling = PLATFORM["scheduling"]
    for plugin in plugins:
        pod = plugin["spec"]["template"]["spec"]
        assert pod["nodeSelector"] == {scheduling["poolLabel"]: "gpu"}
        tolerated = {toleration["key"] for toleration in pod["tolerations"]}
        assert {scheduling["spotTaint"]["key"], scheduling["gpuTaint"]["key"]} <= tolerated
        assert ("kubernetes.azure.com/scalesetpriority" in tolerated) == (cloud == "azure")


def test_the_quota_of_gpus_is_what_the_pool_can_have(kubectl: Path) -> None:
    (quota,) = of_kind(build(kubectl, DEPLOY / "overlays" / "gpu-gcp"), "ResourceQuota")
    largest = max(settings["pools"]["gpu"]["max"] for settings in PLATFORM["environments"].values())
    assert quota["spec"]["hard"]["requests.nvidia.com/gpu"] == str(largest)


# --- charts with the regions' values -------------------------------------------------------------


def render(helm: Path, chart: str, release: str, namespace: str, *values: Path) -> list[Object]:
    """The objects a chart makes of some values files."""
    files = [argument for file in values for argument in ("--values", str(file))]
    command = [helm, "template", release, complete(chart), "--namespace", namespace, *files]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, f"{chart} {[str(file) for file in values]}: {run.stderr}"
    return [item for item in yaml.safe_load_all(run.stdout) if item]


def every_release(helm: Path, folder: Path, key: str) -> dict[str, list[Object]]:
    """The releases of a region as Argo CD makes them."""
    cloud = PLATFORM["regions"][key]["cloud"]
    gpu = DEPLOY / "overlays" / f"gpu-{cloud}" / "llm-server.yaml"
    return {
        "router": render(helm, "router", "llm-router", "llm-router", folder / "router.yaml"),
        "cpu": render(helm, "llm-server", "cpu", "llm-models", folder / "llm-server-cpu.yaml"),
        "gpu": render(helm, "llm-server", "gpu", "llm-models", gpu, folder / "llm-server-gpu.yaml"),
        "platform": render(helm, "platform", "platform", "platform", folder / "platform.yaml"),
        "exporters": render(helm, "exporters", "exporters", "monitoring", folder / "exporters.yaml"),
    }


def test_every_region_s_values_pass_the_charts_schemas_and_give_valid_objects(helm: Path, recorded: Path) -> None:
    objects = []
    for env, key in REGIONS:
        for items in every_release(helm, DEPLOY / "overlays" / f"{env}-{key}", key).values():
            objects += items
    for key in PLATFORM["regions"]:
        for items in every_release(helm, recorded / f"prod-{key}", key).values():
            objects += items
    assert not (found := schemas.problems(distinct(objects))), "\n".join(found)


@pytest.mark.parametrize(("env", "key"), REGIONS)
def test_the_real_binary_accepts_the_region_s_configuration(
    env: str, key: str, helm: Path, llm_router: Path, tmp_path: Path
) -> None:
    (workload,) = of_kind(every_release(helm, DEPLOY / "overlays" / f"{env}-{key}", key)["router"], "StatefulSet")
    objects = every_release(helm, DEPLOY / "overlays" / f"{env}-{key}", key)["router"]
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    name = Path(container["args"][-1].replace("$(POD_NAME)", "llm-router-0")).name
    (config,) = [item["data"][name] for item in of_kind(objects, "ConfigMap") if name in item["data"]]
    file = tmp_path / name
    file.write_text(config)
    given = {variable["name"]: variable.get("value", f"secret-{variable['name']}") for variable in container["env"]}
    environment = {"PATH": "/usr/bin:/bin", **given, "POD_NAME": "llm-router-0", "POD_IP": "10.0.0.7"}
    command = [llm_router, "check", "--config", file]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("key", PLATFORM["regions"])
def test_pods_land_on_the_pool_meant_for_them(key: str, helm: Path) -> None:
    scheduling = PLATFORM["scheduling"]
    releases = every_release(helm, DEPLOY / "overlays" / f"prod-{key}", key)
    for release, pool in (("router", "system"), ("cpu", "cpu"), ("gpu", "gpu")):
        workloads = [item for item in releases[release] if item["kind"] in ("Deployment", "StatefulSet")]
        assert workloads, release
        for workload in workloads:
            pod = workload["spec"]["template"]["spec"]
            assert pod["nodeSelector"] == {scheduling["poolLabel"]: pool}
            tolerated = {toleration["key"] for toleration in pod.get("tolerations", [])}
            wanted = {"system": set(), "cpu": {"spotTaint"}, "gpu": {"spotTaint", "gpuTaint"}}[pool]
            assert {scheduling[taint]["key"] for taint in wanted} <= tolerated
            if pool == "system":
                assert not tolerated, "a router must not land on a machine that may be taken away"


@pytest.mark.parametrize("key", PLATFORM["regions"])
def test_gpus_scale_from_nothing_to_what_the_pool_can_have(key: str, helm: Path) -> None:
    (scaled,) = of_kind(every_release(helm, DEPLOY / "overlays" / f"prod-{key}", key)["gpu"], "ScaledObject")
    pool = PLATFORM["environments"]["prod"]["pools"]["gpu"]
    assert scaled["spec"]["minReplicaCount"] == 0
    assert scaled["spec"]["maxReplicaCount"] == pool["max"]


@pytest.mark.parametrize("key", PLATFORM["regions"])
def test_recorded_addresses_reach_firewall_seeds_and_load_balancers(key: str, helm: Path, recorded: Path) -> None:
    outputs = json.loads((INFRA / "tests" / "outputs.prod.json").read_text())
    gossip = yaml.safe_load((recorded / f"prod-{key}" / "router.yaml").read_text())["gossip"]
    others = [address for name, both in outputs.items() if name != key for address in both["inbound"]]
    assert sorted(gossip["seeds"]) == sorted(f"{address}:7946" for address in others)
    allowed = set(gossip["public"]["allowedCIDRs"])
    assert {f"{address}/32" for both in outputs.values() for address in both["outbound"]} <= allowed
    assert not any(cidr.endswith("/0") for cidr in allowed)
    services = [
        item
        for item in every_release(helm, recorded / f"prod-{key}", key)["router"]
        if item["kind"] == "Service" and item["spec"].get("type") == "LoadBalancer"
    ]
    assert len(services) == len(outputs[key]["inbound"])
    for service in services:
        assert set(service["spec"]["loadBalancerSourceRanges"]) == allowed


def test_a_router_s_clusters_are_the_regions_own_names_prices_and_models() -> None:
    for env, key in REGIONS:
        clusters = yaml.safe_load((DEPLOY / "overlays" / f"{env}-{key}" / "router.yaml").read_text())["config"][
            "clusters"
        ]
        assert {one["name"] for one in clusters} == {
            f"{name}-{pool}" for name in PLATFORM["regions"] for pool in ("cpu", "gpu")
        }
        for one in clusters:
            name, _, pool = one["name"].rpartition("-")
            assert one["costPerHour"] == PLATFORM["regions"][name]["machines"][pool]["spotHour"]["usd"]
            assert one["models"][0]["name"] == MODELS["served"][pool]["model"]
            served = DEPLOY / "overlays" / f"{env}-{name}" / f"llm-server-{pool}.yaml"
            values = yaml.safe_load(served.read_text())
            assert values["cluster"] == one["name"], "the routers' demand is told by this name"
            if name != key:
                assert one["endpoint"] == f"https://{values['ingress']['host']}"


# --- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("served/gpu/model", "llama-9", "served.gpu.model: no model `llama-9`: there is tinyllama"),
        ("served/cpu/contextWindow", 4096, "served.cpu.contextWindow: `4096` is more than the model's 2048"),
        ("models/llama-2-7b-chat/sha256", "abc", "models.llama-2-7b-chat.sha256: `abc` does not match"),
        ("models/llama-2-7b-chat/uri", "ftp://x/y.gguf", "models.llama-2-7b-chat.uri: `ftp://x/y.gguf` does not match"),
        ("models/llama-2-7b-chat/quantisation", "Q9", "models.llama-2-7b-chat.quantisation: `Q9`"),
    ],
)
def test_a_wrong_model_is_refused_with_its_path(path: str, value: Any, says: str, tmp_path: Path) -> None:
    models = copy.deepcopy(MODELS)
    *way, last = path.split("/")
    inner = models
    for step in way:
        inner = inner[step]
    inner[last] = value
    (tmp_path / "models.json").write_text(json.dumps(models))
    shutil.copy(DEPLOY / "models" / "models.schema.json", tmp_path)
    run = platformctl("values", "--check", "--models", str(tmp_path))
    assert run.returncode == 64
    assert says in run.stderr


def test_model_servers_get_the_checksum_and_the_region_s_own_copy(recorded: Path) -> None:
    schemes = {"aws": "s3://", "gcp": "gs://", "azure": "azblob://"}
    for key, region in PLATFORM["regions"].items():
        for pool in ("cpu", "gpu"):
            model = MODELS["models"][MODELS["served"][pool]["model"]]
            public = yaml.safe_load((DEPLOY / "overlays" / f"prod-{key}" / f"llm-server-{pool}.yaml").read_text())[
                "model"
            ]
            assert (public["uri"], public["sha256"]) == (model["uri"], model["sha256"])
            own = yaml.safe_load((recorded / f"prod-{key}" / f"llm-server-{pool}.yaml").read_text())["model"]
            assert own["uri"].startswith(schemes[region["cloud"]]) and own["uri"].endswith(model["file"])
            assert int(own["storage"]["size"].removesuffix("Gi")) * 2**30 > 2 * model["bytes"]


# --- Argo CD -------------------------------------------------------------------------------------


def expand(text: str, env: str, key: str) -> str:
    """What Argo CD makes of a template for one cluster: this repository uses no more of the language."""
    values = {"environment": env, "cloud": PLATFORM["regions"][key]["cloud"], "region": key}
    values |= {"repository": REPOSITORY, "revision": "v1.2.3"}
    for name, value in values.items():
        text = text.replace(f"{{{{ .values.{name} }}}}", value)
    text = text.replace("{{ .server }}", "https://kubernetes.default.svc")
    text = re.sub(r'\{\{ trimPrefix "([^"]*)" \.values\.region \}\}', lambda match: key.removeprefix(match[1]), text)
    assert "{{" not in text, text
    return text


def applications(kubectl: Path, env: str, key: str) -> list[Object]:
    """The applications that a cluster gets."""
    made = []
    for item in of_kind(build(kubectl, DEPLOY / "argocd" / "apps"), "ApplicationSet"):
        (generator,) = item["spec"]["generators"]
        clouds = [
            rule["values"]
            for rule in generator["clusters"]["selector"]["matchExpressions"]
            if rule["key"] == "llm-router/cloud"
        ]
        if clouds and PLATFORM["regions"][key]["cloud"] not in clouds[0]:
            continue
        template = yaml.safe_load(expand(yaml.safe_dump(item["spec"]["template"], width=10_000), env, key))
        template["metadata"]["namespace"] = "argocd"
        made.append({"apiVersion": item["apiVersion"], "kind": "Application", **template})
    return made


def test_argo_cd_s_objects_and_the_applications_they_make_are_valid(kubectl: Path) -> None:
    objects = list(yaml.safe_load_all((DEPLOY / "argocd" / "root.yaml").read_text()))
    objects += build(kubectl, DEPLOY / "argocd" / "apps")
    for env, key in REGIONS:
        objects += applications(kubectl, env, key)
    assert not (found := schemas.problems(objects)), "\n".join(found)


@pytest.mark.parametrize(("env", "key"), REGIONS)
def test_every_path_and_values_file_an_application_names_exists(env: str, key: str, kubectl: Path) -> None:
    made = applications(kubectl, env, key)
    assert len({item["metadata"]["name"] for item in made}) == len(made)
    for item in made:
        sources = item["spec"].get("sources") or [item["spec"]["source"]]
        references = {source["ref"] for source in sources if "ref" in source}
        for source in sources:
            if "path" in source:
                assert (ROOT / source["path"]).is_dir(), f"{item['metadata']['name']}: no {source['path']}"
            for file in source.get("helm", {}).get("valueFiles", []):
                reference, _, path = file.partition("/")
                assert reference.removeprefix("$") in references, file
                assert (ROOT / path).is_file(), f"{item['metadata']['name']}: no {path}"


def test_an_application_may_only_use_what_its_project_allows(kubectl: Path) -> None:
    project, root = yaml.safe_load_all((DEPLOY / "argocd" / "root.yaml").read_text())
    assert (ROOT / root["spec"]["source"]["path"] / "kustomization.yaml").is_file()
    namespaces = {one["namespace"] for one in project["spec"]["destinations"]}
    for env, key in REGIONS:
        for item in applications(kubectl, env, key):
            assert item["spec"]["destination"]["namespace"] in namespaces
            for source in item["spec"].get("sources") or [item["spec"]["source"]]:
                assert source["repoURL"] in project["spec"]["sourceRepos"]


def test_a_cluster_without_a_label_is_an_error_and_taking_one_off_takes_nothing_down(kubectl: Path) -> None:
    for item in of_kind(build(kubectl, DEPLOY / "argocd" / "apps"), "ApplicationSet"):
        assert item["spec"]["goTemplateOptions"] == ["missingkey=error"]
        assert item["spec"]["syncPolicy"]["preserveResourcesOnDeletion"] is True
