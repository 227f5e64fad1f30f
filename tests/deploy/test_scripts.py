"""The scripts people run: shellcheck, help, dry run, refusals, and what they ask of the clouds, whose programs are
replaced by one that writes down how it was called."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from live import eventually, free_port

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "deploy" / "scripts"
COMMANDS = sorted(path.name for path in SCRIPTS.iterdir() if path.suffix == "")
STUBBED = ["aws", "gcloud", "az", "kubectl", "helm", "pulumi", "git", "npm", "sleep"]
# Writes down how it was called, with what came on standard input, and answers by the first rule that fits.
STUB = f"""#!{sys.executable}
import json, os, pathlib, sys
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
line = " ".join(call)
given = "" if sys.stdin is None or sys.stdin.isatty() or "-" not in call else sys.stdin.read()
with open(os.environ["STUB_LOG"], "a") as log:
    log.write(json.dumps({{"call": call, "given": given}}) + chr(10))
for rule in json.loads(pathlib.Path(os.environ["STUB_RULES"]).read_text()):
    if rule["when"] in line:
        sys.stdout.write(rule.get("say", ""))
        sys.exit(rule.get("exit", 0))
"""


@dataclass
class Bench:
    """A copy of what the scripts read and write, and stand-ins for the programs they call."""

    root: Path
    rules: list[dict[str, object]] = field(default_factory=list)

    def run(self, script: str, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a script of the copy, whatever comes of it."""
        (self.root / "rules.json").write_text(json.dumps(self.rules))
        environment = {
            "PATH": f"{self.root / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.root),
            "STUB_LOG": str(self.root / "calls"),
            "STUB_RULES": str(self.root / "rules.json"),
            "GCP_PROJECT": "the-project",
        }
        return subprocess.run(
            [str(self.root / "deploy" / "scripts" / script), *arguments],
            env=environment,
            cwd=self.root,
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def records(self) -> list[dict[str, object]]:
        """Every call of a stand-in."""
        log = self.root / "calls"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def calls(self, program: str) -> list[str]:
        """The calls of one program, as lines."""
        return [" ".join(one["call"]) for one in self.records if one["call"][0] == program]  # type: ignore[index, arg-type]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A copy of the repository's parts that the scripts touch."""
    for name in ("deploy", "infra"):
        ignored = shutil.ignore_patterns("node_modules", "__pycache__", "outputs.*.json")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    (tmp_path / "bin").mkdir()
    for name in STUBBED:
        stub = tmp_path / "bin" / name
        stub.write_text(STUB)
        stub.chmod(0o755)
    return Bench(tmp_path)


def accounts(bench: Bench) -> None:
    """The stacks' settings as somebody has filled them in."""
    for file in (bench.root / "infra").glob("*/Pulumi.*.yaml"):
        text = file.read_text().replace("0000", "1234")
        file.write_text(text)


# --- all of them ---------------------------------------------------------------------------------


def test_shellcheck_finds_nothing() -> None:
    files = [str(path.relative_to(ROOT)) for path in sorted(SCRIPTS.iterdir())]
    run = subprocess.run(
        ["shellcheck", "-x", *files], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_how_it_is_used_and_changes_nothing(name: str, bench: Bench) -> None:
    run = bench.run(name, "--help")
    assert run.returncode == 0, run.stderr
    assert name in run.stdout
    assert not bench.records


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_options_are_refused_with_a_hint(name: str, bench: Bench) -> None:
    run = bench.run(name, "--no-such-option", given="")
    assert run.returncode == 64
    assert "--help tells more" in run.stderr
    assert not bench.records


DRY = {
    "setup": ["--env", "prod", "--repository", "https://git.example.com/mine.git"],
    "pause-costs": ["--env", "prod"],
    "resume-costs": ["--env", "prod"],
    "rotate-certificates": ["--env", "prod", "identities"],
    "rotate-ca": ["--env", "prod", "--old", "infra", "--new", "new", "trust"],
    "add-region": [
        *("--env", "prod", "--key", "aws-eu-west-1", "--like", "aws-us-west-2", "--zones", "eu-west-1a,eu-west-1b"),
        *("--latitude", "53.35", "--longitude", "-6.26", "--networks", "nodes=10.11.0.0/16,services=172.20.11.0/24"),
    ],
    "remove-region": ["--env", "prod", "--region", "gcp-us-central1"],
    "validate-gpu": ["--env", "prod", "--region", "aws-us-west-2"],
    "copy-models": ["--env", "prod"],
    "put-secret": ["--env", "prod", "--region", "aws-us-west-2", "openai"],
}


@pytest.mark.parametrize("name", DRY)
def test_a_dry_run_shows_what_it_would_do_and_does_nothing(name: str, bench: Bench) -> None:
    (bench.root / "infra" / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    before = {path: path.read_bytes() for path in bench.root.rglob("*") if path.is_file()}
    run = bench.run(name, *DRY[name], "--dry-run", given="the-secret")
    assert run.returncode == 0, run.stderr + run.stdout
    assert "would" in run.stdout
    changing = ("apply", "update", "create", "up ", "destroy", "delete", "scale", "put-", "patch", "annotate")
    assert not [one for one in bench.records if any(word in " ".join(one["call"]) for word in changing)]  # type: ignore[arg-type]
    after = {path: path.read_bytes() for path in before if path.exists()}
    assert after == before
    assert "the-secret" not in run.stdout


def test_an_unknown_region_is_refused_with_those_there_are(bench: Bench) -> None:
    run = bench.run("pause-costs", "--env", "prod", "--region", "aws-mars-1")
    assert run.returncode == 64
    assert "no region `aws-mars-1`" in run.stderr and "aws-us-west-2 gcp-us-central1 azure-eastus" in run.stderr


def test_what_cannot_be_undone_is_asked_for(bench: Bench) -> None:
    run = bench.run("pause-costs", "--env", "prod")
    assert run.returncode == 1
    assert "say --yes" in run.stderr
    assert not bench.records


# --- costs ---------------------------------------------------------------------------------------


def test_pausing_takes_every_pool_of_every_cloud_to_nothing(bench: Bench) -> None:
    run = bench.run("pause-costs", "--env", "prod", "--yes")
    assert run.returncode == 0, run.stderr
    aws, gcloud, az = (bench.calls(program) for program in ("aws", "gcloud", "az"))
    name = "llm-router-prod-aws-us-west-2"
    for pool in ("gpuspot", "cpuspot", "system"):
        sizes = "--scaling-config minSize=0,maxSize=1,desiredSize=0"
        where = f"--region us-west-2 --cluster-name {name} --nodegroup-name {pool}"
        assert f"aws eks update-nodegroup-config {where} {sizes}" in aws
        assert any(f"node-pools update {pool}" in call and "--no-enable-autoscaling" in call for call in gcloud)
        assert any(f"--node-pool {pool} --num-nodes 0" in call and "--region us-central1" in call for call in gcloud)
    for pool in ("gpuspot", "cpuspot"):
        assert any(
            "nodepool scale --resource-group llm-router-prod-azure-eastus" in call
            and f"--name {pool} --node-count 0" in call
            for call in az
        )
    assert "az aks stop --resource-group llm-router-prod-azure-eastus --name llm-router-prod-azure-eastus" in az


def test_resuming_gives_the_pools_the_sizes_of_the_shared_file(bench: Bench) -> None:
    run = bench.run("resume-costs", "--env", "prod")
    assert run.returncode == 0, run.stderr
    assert any(
        "--nodegroup-name gpuspot --scaling-config minSize=0,maxSize=3,desiredSize=0" in call
        for call in bench.calls("aws")
    )
    assert any(
        "--nodegroup-name system --scaling-config minSize=2,maxSize=4,desiredSize=2" in call
        for call in bench.calls("aws")
    )
    assert any(
        "node-pools update gpuspot" in call and "--total-min-nodes 0 --total-max-nodes 3" in call
        for call in bench.calls("gcloud")
    )
    assert any(
        "--name cpuspot --enable-cluster-autoscaler --min-count 1 --max-count 6" in call for call in bench.calls("az")
    )
    assert any("az aks start" in call for call in bench.calls("az"))


def test_only_the_gpus_of_one_region_are_paused_when_asked_for(bench: Bench) -> None:
    run = bench.run("pause-costs", "--env", "dev", "--region", "gcp-us-central1", "--pool", "gpu", "--yes")
    assert run.returncode == 0, run.stderr
    assert not bench.calls("aws") + bench.calls("az")
    assert all("gpuspot" in call and "--zone us-central1-a" in call for call in bench.calls("gcloud"))


def test_a_cloud_that_refuses_ends_the_script(bench: Bench) -> None:
    bench.rules = [{"when": "update-nodegroup-config", "exit": 254}]
    run = bench.run("pause-costs", "--env", "prod", "--yes")
    assert run.returncode == 254
    assert "paused" not in run.stdout
    assert not bench.calls("gcloud")


# --- setup ---------------------------------------------------------------------------------------


def outputs(bench: Bench) -> dict[str, dict[str, object]]:
    """Stand-ins for what the stacks put out; each region's stack is asked in its own folder."""
    recorded = json.loads((ROOT / "infra" / "tests" / "outputs.prod.json").read_text())
    for key, value in recorded.items():
        cloud = key.partition("-")[0]
        bench.rules.append({"when": f"infra/{cloud} stack output outputs", "say": json.dumps(value)})
    return recorded


def test_setup_makes_regions_records_addresses_and_opens_ports_in_a_second_pass(bench: Bench) -> None:
    recorded = outputs(bench)
    run = bench.run("setup", "--env", "prod", "--yes", "regions", "overlays")
    assert run.returncode == 0, run.stderr
    ups = [call.split("infra/")[1].split()[0] for call in bench.calls("pulumi") if " up " in call]
    assert ups == ["aws", "gcp", "azure", "aws", "azure", "gcp"]
    assert json.loads((bench.root / "infra/common/outputs.prod.json").read_text()) == recorded
    router = yaml.safe_load((bench.root / "deploy/overlays/prod-gcp-us-central1/router.yaml").read_text())
    assert "203.0.113.10:7946" in router["gossip"]["seeds"]
    again = bench.run("setup", "--env", "prod", "--yes", "regions")
    assert again.returncode == 0
    assert len([call for call in bench.calls("pulumi") if " up " in call]) == 9, "nothing is new: one pass"


def test_setup_refuses_outputs_without_addresses(bench: Bench) -> None:
    bench.rules = [{"when": "stack output", "say": '{"inbound": ["somewhere"], "outbound": ["192.0.2.1"]}'}]
    run = bench.run("setup", "--env", "prod", "--region", "aws-us-west-2", "--yes", "regions")
    assert run.returncode == 64
    assert "outputs.inbound" in run.stderr and "somewhere" in run.stderr


def test_setup_refuses_the_sample_s_accounts(bench: Bench) -> None:
    (bench.root / "infra/node_modules/@pulumi/pulumi").mkdir(parents=True)
    run = bench.run("setup", "--env", "prod", "check")
    assert run.returncode == 1
    assert "has the sample's accounts" in run.stderr
    accounts(bench)
    run = bench.run("setup", "--env", "prod", "check")
    assert run.returncode == 0, run.stderr


def test_setup_refuses_a_wrong_shared_file_before_anything_is_made(bench: Bench) -> None:
    file = bench.root / "infra/common/platform.json"
    file.write_text(file.read_text().replace('"us-west-2"', '"us-west-9"', 1))
    run = bench.run("setup", "--env", "prod", "check", "regions", "--yes")
    assert run.returncode != 0
    assert "regions.aws-us-west-2.region: `us-west-9` is not one of" in run.stderr
    assert not bench.calls("pulumi")


def test_setup_tells_argo_cd_who_each_cluster_is(bench: Bench) -> None:
    repository = "https://git.example.com/mine.git"
    run = bench.run("setup", "--env", "prod", "argocd", "--repository", repository, "--revision", "v1.2.3")
    assert run.returncode == 0, run.stderr
    given = [(one["call"], str(one["given"])) for one in bench.records if one["given"]]
    secrets = [yaml.safe_load(text) for _, text in given if "secret-type: cluster" in text]
    assert {secret["metadata"]["labels"]["llm-router/region"] for secret in secrets} == {
        "aws-us-west-2",
        "gcp-us-central1",
        "azure-eastus",
    }
    wanted = {"llm-router/repository": repository, "llm-router/revision": "v1.2.3"}
    assert all(secret["metadata"]["annotations"] == wanted for secret in secrets)
    roots = [list(yaml.safe_load_all(text)) for _, text in given if "kind: AppProject" in text]
    assert len(roots) == 3
    project, root = roots[0]
    assert project["spec"]["sourceRepos"][0] == root["spec"]["source"]["repoURL"] == repository
    assert root["spec"]["source"]["targetRevision"] == "v1.2.3"


def test_the_labels_setup_gives_are_those_every_application_set_asks_for(bench: Bench) -> None:
    bench.run(
        "setup", "--env", "dev", "--region", "aws-us-west-2", "argocd", "--repository", "https://git.example.com/x.git"
    )
    (secret,) = [
        yaml.safe_load(str(one["given"])) for one in bench.records if "secret-type: cluster" in str(one["given"])
    ]
    given = set(secret["metadata"]["labels"]) | set(secret["metadata"]["annotations"])
    for file in (ROOT / "deploy/argocd/apps").glob("*.yaml"):
        for item in yaml.safe_load_all(file.read_text()):
            if item["kind"] != "ApplicationSet":
                continue
            (generator,) = item["spec"]["generators"]
            clusters = generator["clusters"]
            assert {rule["key"] for rule in clusters["selector"]["matchExpressions"]} <= given
            assert {value.split('"')[1] for value in clusters["values"].values()} <= given


# --- regions -------------------------------------------------------------------------------------


def test_a_region_is_added_to_every_file_and_removed_from_every_file(bench: Bench) -> None:
    before = {path: path.read_text() for path in (bench.root / "infra/common").glob("*.json")}
    run = bench.run("add-region", *DRY["add-region"])
    assert run.returncode == 0, run.stderr
    platform = json.loads((bench.root / "infra/common/platform.json").read_text())
    added = platform["regions"]["aws-eu-west-1"]
    assert (added["region"], added["zones"]) == ("eu-west-1", ["eu-west-1a", "eu-west-1b"])
    assert "region: aws-eu-west-1" in (bench.root / "infra/aws/Pulumi.prod-eu-west-1.yaml").read_text()
    dns = yaml.safe_load((bench.root / "infra/dns/Pulumi.prod.yaml").read_text())
    stacks = dns["config"]["llm-router-dns:regions"]
    assert stacks["aws-eu-west-1"] == "organization/llm-router-aws/prod-eu-west-1"
    router = yaml.safe_load((bench.root / "deploy/overlays/prod-azure-eastus/router.yaml").read_text())
    assert "aws-eu-west-1-gpu" in {one["name"] for one in router["config"]["clusters"]}

    run = bench.run("remove-region", "--env", "prod", "--region", "aws-eu-west-1", "--yes")
    assert run.returncode == 0, run.stderr
    assert [call.split("infra/")[1].split()[:2] for call in bench.calls("pulumi")] == [
        ["dns", "up"],
        ["aws", "destroy"],
    ]
    assert bench.calls("pulumi")[1].split("--stack ")[1].startswith("prod-eu-west-1 ")
    assert {path: path.read_text() for path in before} == before
    assert not (bench.root / "deploy/overlays/prod-aws-eu-west-1").exists()
    assert not (bench.root / "infra/aws/Pulumi.prod-eu-west-1.yaml").exists()
    assert "aws-eu-west-1" not in (bench.root / "infra/dns/Pulumi.prod.yaml").read_text()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"--key": "aws-mars-1"}, "regions.aws-mars-1.region: `mars-1` is not one of"),
        ({"--key": "aws-us-west-2"}, "the region `aws-us-west-2` is there already"),
        ({"--key": "gcp-europe-west1"}, "sizes and prices are another cloud's"),
        ({"--zones": "us-east-1a,us-east-1b"}, "`us-east-1a` is not a zone of `eu-west-1`"),
        (
            {"--networks": "nodes=10.10.0.0/16,services=172.20.11.0/24"},
            "overlaps with regions.aws-us-west-2.network.nodes",
        ),
        ({"--latitude": "153"}, "regions.aws-eu-west-1.latitude: `153.0` is more than 90"),
    ],
)
def test_a_wrong_region_is_refused_and_nothing_is_changed(changed: dict[str, str], says: str, bench: Bench) -> None:
    arguments = list(DRY["add-region"])
    for option, value in changed.items():
        arguments[arguments.index(option) + 1] = value
    before = {path: path.read_bytes() for path in bench.root.rglob("*") if path.is_file()}
    run = bench.run("add-region", *arguments)
    assert run.returncode == 64
    assert says in run.stderr
    after = {path: path.read_bytes() for path in bench.root.rglob("*") if path.is_file()}
    assert {path: data for path, data in after.items() if path.name != "rules.json"} == before


# --- secrets and certificates --------------------------------------------------------------------


def test_a_secret_goes_into_every_store_and_onto_no_command_line(bench: Bench) -> None:
    shutil.copy(ROOT / "infra/tests/outputs.prod.json", bench.root / "infra/common/outputs.prod.json")
    run = bench.run("put-secret", "--env", "prod", "openai", given="sk-very-secret")
    assert run.returncode == 0, run.stderr
    assert "--secret-id llm-router-prod-aws-us-west-2/openai" in bench.calls("aws")[0]
    assert "versions add llm-router-prod-gcp-us-central1-openai" in bench.calls("gcloud")[0]
    assert "--vault-name llmrouterprodkv01234567 --name openai" in bench.calls("az")[0]
    everything = json.dumps(bench.records) + run.stdout + run.stderr
    assert "sk-very-secret" not in everything
    assert len(bench.calls("kubectl")) == 3, "each cluster fetches it at once"


def test_an_empty_or_unknown_secret_is_refused(bench: Bench) -> None:
    assert "standard input is empty" in bench.run("put-secret", "--env", "prod", "openai", given="").stderr
    assert "no secret `opnai`" in bench.run("put-secret", "--env", "prod", "opnai", given="x").stderr


def test_every_identity_is_renewed_and_waited_for(bench: Bench) -> None:
    names = "certificate.cert-manager.io/llm-router-0-identity\ncertificate.cert-manager.io/region-tls\n"
    bench.rules = [{"when": "get certificates", "say": names}]
    run = bench.run("rotate-certificates", "--env", "prod", "--region", "aws-us-west-2", "identities")
    assert run.returncode == 0, run.stderr
    patches = [call for call in bench.calls("kubectl") if " patch " in call]
    assert len(patches) == 1 and "llm-router-0-identity --subresource status" in patches[0]
    waits = [call for call in bench.calls("kubectl") if " wait " in call]
    assert len(waits) == 2 and "--for condition=Ready" in waits[1]


def test_a_cluster_without_identities_is_an_error_that_says_what_to_look_at(bench: Bench) -> None:
    run = bench.run("rotate-certificates", "--env", "prod", "--region", "aws-us-west-2", "identities")
    assert run.returncode == 1
    assert "gossip.identity.source: certManager" in run.stderr


def certificate(folder: Path, name: str, *more: str) -> tuple[str, str]:
    """A certificate for a name and its key, made by real openssl."""
    cert, key = folder / "tls.crt", folder / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*command, *(more or ("-days", "90"))], check=True, capture_output=True, timeout=30)
    return str(cert), str(key)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_the_shared_certificate_is_checked_before_it_is_given_out(bench: Bench, tmp_path: Path) -> None:
    shutil.copy(ROOT / "infra/tests/outputs.prod.json", bench.root / "infra/common/outputs.prod.json")
    cert, key = certificate(tmp_path, "router.llm.example.com")
    run = bench.run("rotate-certificates", "--env", "prod", "shared", "--cert", cert, "--key", key)
    assert run.returncode == 0, run.stderr
    assert len([call for call in bench.calls("az") if "shared-tls-" in call]) == 2
    wrong = bench.run("rotate-certificates", "--env", "dev", "shared", "--cert", cert, "--key", key)
    assert "is not for router.dev.llm.example.com" in wrong.stderr
    (tmp_path / "other").mkdir()
    _, other = certificate(tmp_path / "other", "router.llm.example.com")
    assert (
        "is not the key of"
        in bench.run("rotate-certificates", "--env", "prod", "shared", "--cert", cert, "--key", other).stderr
    )
    (tmp_path / "short").mkdir()
    cert, key = certificate(tmp_path / "short", "router.llm.example.com", "-days", "2")
    assert (
        "expires within a week"
        in bench.run("rotate-certificates", "--env", "prod", "shared", "--cert", cert, "--key", key).stderr
    )


def test_an_authority_is_replaced_in_three_steps_each_everywhere(bench: Bench, llm_router: Path) -> None:
    (bench.root / "bin" / "llm-router").symlink_to(llm_router)
    old, new = bench.root / "old", bench.root / "new"
    subprocess.run(
        [llm_router, "certs", "init", "--dir", old, "--cluster-id", "llm-router-prod"], check=True, timeout=20
    )
    options = ["--env", "prod", "--old", str(old), "--new", str(new)]

    early = bench.run("rotate-ca", *options, "issue")
    assert early.returncode == 1 and "comes first" in early.stderr

    run = bench.run("rotate-ca", *options, "trust")
    assert run.returncode == 0, run.stderr
    assert (new / "ca.key").stat().st_mode & 0o077 == 0
    bundles = [call for call in bench.calls("kubectl") if "create configmap llm-router-trust" in call]
    assert len(bundles) == 3

    bench.rules = [{"when": "get configmap llm-router-trust", "say": "-----BEGIN CERTIFICATE-----\n"}]
    early = bench.run("rotate-ca", *options, "issue")
    assert early.returncode == 1 and "trusts one authority only" in early.stderr

    both = "-----BEGIN CERTIFICATE-----\n" * 2
    names = "certificate.cert-manager.io/llm-router-0-identity\n"
    bench.rules = [{"when": "get configmap", "say": both}, {"when": "get certificates", "say": names}]
    run = bench.run("rotate-ca", *options, "issue")
    assert run.returncode == 0, run.stderr
    assert len([call for call in bench.calls("kubectl") if "create secret tls llm-router-root" in call]) == 3
    run = bench.run("rotate-ca", *options, "untrust", "--yes")
    assert run.returncode == 0, run.stderr


# --- models --------------------------------------------------------------------------------------


def test_models_are_checked_and_copied_into_every_region_s_own_store(bench: Bench) -> None:
    shutil.copy(ROOT / "infra/tests/outputs.prod.json", bench.root / "infra/common/outputs.prod.json")
    file = bench.root / "deploy/models/models.json"
    models = json.loads(file.read_text())
    for pool in models["served"].values():
        model = models["models"][pool["model"]]
        content = pool["model"].encode() * 100_000
        (bench.root / model["file"]).write_bytes(content)
        model["sha256"] = hashlib.sha256(content).hexdigest()
    file.write_text(json.dumps(models))
    run = bench.run("copy-models", "--env", "prod", "--from", str(bench.root))
    assert run.returncode == 0, run.stderr
    assert any(
        "s3://llm-router-prod-aws-us-west-2-models-123456789012/tinyllama" in call for call in bench.calls("aws")
    )
    assert any("gs://llm-router-prod-llm-router-prod-gcp-us-central1-models/" in call for call in bench.calls("gcloud"))
    names = "--account-name llmrouterprodblo01234567 --container-name models --name llama-2-7b-chat.Q4_K_M.gguf"
    assert any(names in call for call in bench.calls("az"))

    (bench.root / "llama-2-7b-chat.Q4_K_M.gguf").write_bytes(b"something else")
    run = bench.run("copy-models", "--env", "prod", "--from", str(bench.root))
    assert run.returncode == 1
    assert "llama-2-7b-chat.Q4_K_M.gguf is not what deploy/models says" in run.stderr


# --- GPUs ----------------------------------------------------------------------------------------

ASK = ["--env", "prod", "--region", "aws-us-west-2", "--timeout", "5"]


def test_a_gpu_that_answers_is_good(bench: Bench) -> None:
    bench.rules = [
        {"when": "logs validate-gpu", "say": "Tesla T4\n"},
        {"when": "{.spec.nodeName}", "say": "node-1"},
        {"when": "get node node-1", "say": "llm-router/spot nvidia.com/gpu"},
    ]
    run = bench.run("validate-gpu", *ASK)
    assert run.returncode == 0, run.stderr
    assert "ok: Tesla T4 on node-1" in run.stdout
    (applied,) = [yaml.safe_load(str(one["given"])) for one in bench.records if one["given"]]
    assert applied["spec"]["nodeSelector"] == {"llm-router/pool": "gpu"}
    assert applied["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "delete pod validate-gpu" in bench.calls("kubectl")[-1], "the machine may go again"


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([{"when": " wait ", "exit": 1}, {"when": "{.status.phase}", "say": "Pending"}], "no machine within 5 s"),
        ([{"when": " wait ", "exit": 1}, {"when": "{.status.phase}", "say": "Failed"}], "does not see a card"),
        ([{"when": "logs", "say": "NVIDIA L4\n"}, {"when": "{.spec.nodeName}", "say": "n"}], "platform.json says T4"),
        (
            [
                {"when": "logs", "say": "Tesla T4\n"},
                {"when": "{.spec.nodeName}", "say": "n"},
                {"when": "get node n", "say": "llm-router/spot"},
            ],
            "lacks the taint nvidia.com/gpu",
        ),
    ],
)
def test_a_gpu_that_does_not_answer_is_explained(rules: list[dict[str, object]], says: str, bench: Bench) -> None:
    bench.rules = rules
    run = bench.run("validate-gpu", *ASK)
    assert run.returncode == 1
    assert says in run.stderr


# --- a running router ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(llm_router: Path) -> Iterator[str]:
    """Three regions in one process, with simulated clusters and providers."""
    port = free_port()
    command = [llm_router, "demo", "--port", str(port), "--duration", "300s", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            asked = [
                "curl",
                "--silent",
                "--max-time",
                "2",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                f"{url}/readyz",
            ]
            return subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout == "200"

        try:
            eventually(ready, 30, "the demo is ready")
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def test_a_running_router_passes_every_check(demo: str) -> None:
    run = subprocess.run(
        [str(SCRIPTS / "test-hybrid-routing"), "--url", demo],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 failed" in run.stdout
    assert "cluster_first: a cluster, since one is healthy" in run.stdout
    assert "streams, and ends the stream" in run.stdout


def test_a_router_that_is_not_there_fails_every_check(bench: Bench) -> None:
    run = bench.run("test-hybrid-routing", "--url", f"http://127.0.0.1:{free_port()}", "--timeout", "2")
    assert run.returncode == 1
    assert "FAILED  takes requests" in run.stdout
    assert " 0 passed" in f" {run.stdout.splitlines()[-1]}"
