"""The router's chart: its configuration is one that the real binary accepts, and its routers find each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import config_schema
import pytest
import yaml
from charts import CHARTS, Case, Object, cases, containers, of_kind, render, template
from live import Processes, eventually, free_port, metric

CASES = cases("router")
DEFAULTS = CASES[0]
REGION = Case("router", "values-region.yaml")
CLOUDS = [Case("router", f"values-{cloud}.yaml") for cloud in ("aws", "gcp", "azure")]


def _workload(objects: list[Object]) -> Object:
    (workload,) = of_kind(objects, "StatefulSet")
    return workload


def _router(objects: list[Object]) -> Object:
    (container,) = containers(_workload(objects)["spec"]["template"])
    return container


def _pods(objects: list[Object]) -> list[str]:
    scaler = of_kind(objects, "HorizontalPodAutoscaler")
    workload = _workload(objects)
    count = scaler[0]["spec"]["maxReplicas"] if scaler else workload["spec"]["replicas"]
    return [f"{workload['metadata']['name']}-{ordinal}" for ordinal in range(count)]


def _environment(objects: list[Object], pod: str, ip: str = "10.0.0.7") -> dict[str, str]:
    """What a router's process would see, secrets replaced by words."""
    given = {env["name"]: env.get("value", f"secret-{env['name']}") for env in _router(objects)["env"]}
    # This one is read before it is sent.
    given |= {name: "token=secret" for name in given if name == "OTEL_EXPORTER_OTLP_HEADERS"}
    return {"PATH": os.environ["PATH"]} | given | {"POD_NAME": pod, "POD_IP": ip}


def _configuration(objects: list[Object], pod: str) -> str:
    """The file a router reads, by the path it is told."""
    path = Path(_router(objects)["args"][-1].replace("$(POD_NAME)", pod))
    (config_map,) = [item for item in of_kind(objects, "ConfigMap") if path.name in item["data"]]
    return config_map["data"][path.name]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_real_binary_accepts_every_router_s_configuration(
    case: Case, helm: Path, llm_router: Path, tmp_path: Path
) -> None:
    objects = render(helm, case)
    for pod in _pods(objects):
        for item in of_kind(objects, "ConfigMap"):
            for name, text in item["data"].items():
                (tmp_path / name).write_text(text)
        file = tmp_path / f"{pod}.yaml"
        file.write_text(_configuration(objects, pod))
        run = subprocess.run(
            [llm_router, "check", "--config", file],
            env=_environment(objects, pod),
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert "not honoured" not in run.stderr, run.stderr


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_arguments_are_those_of_the_real_binary(case: Case, helm: Path, llm_router: Path) -> None:
    command, *options = _router(render(helm, case))["args"]
    usage = subprocess.run([llm_router, command, "--help"], capture_output=True, text=True, check=True, timeout=20)
    assert {option for option in options if option.startswith("--")} <= set(re.findall(r"--[a-z-]+", usage.stdout))


@pytest.mark.parametrize("case", [case for case in CASES if case not in (DEFAULTS,)], ids=str)
def test_a_node_is_named_as_its_certificate_says(case: Case, helm: Path) -> None:
    objects = render(helm, case)
    certificates = {item["spec"]["secretName"]: item["spec"] for item in of_kind(objects, "Certificate")}
    for pod in _pods(objects):
        config = yaml.safe_load(_configuration(objects, pod))
        if "gossip" not in config:
            continue
        name = config["node"]["name"].replace("${POD_NAME}", pod)
        uri = f"llm-router://{config['gossip']['clusterId']}/{name}"
        volumes = {volume["name"]: volume for volume in _workload(objects)["spec"]["template"]["spec"]["volumes"]}
        identity = volumes["identity"]
        if "csi" in identity:
            asked = identity["csi"]["volumeAttributes"]
            assert asked["csi.cert-manager.io/uri-sans"].replace("${POD_NAME}", pod) == uri
            assert {"server auth", "client auth"} <= set(asked["csi.cert-manager.io/key-usages"].split(","))
            files = {asked[f"csi.cert-manager.io/{kind}-file"] for kind in ("certificate", "privatekey", "ca")}
        else:
            secrets = {source["secret"]["name"]: source["secret"] for source in identity["projected"]["sources"]}
            files = {item["path"] for item in secrets[f"{pod}-identity"]["items"]}
            if certificates:
                certificate = certificates[f"{pod}-identity"]
                assert certificate["uris"] == [uri]
                assert {"server auth", "client auth"} <= set(certificate["usages"])
        told = config["gossip"]["identity"]
        places = {str(Path("/etc/llm-router/identity") / file) for file in files}
        mine = {told["cert"].replace("${POD_NAME}", pod), told["key"].replace("${POD_NAME}", pod)}
        assert mine <= places, f"{mine} is not what is mounted: {places}"


@pytest.mark.parametrize("case", CLOUDS, ids=str)
def test_each_router_has_an_address_of_its_own_and_the_world_has_none(case: Case, helm: Path) -> None:
    objects = render(helm, case)
    balancers = {
        item["spec"]["selector"]["statefulset.kubernetes.io/pod-name"]: item
        for item in of_kind(objects, "Service")
        if item["spec"].get("type") == "LoadBalancer"
    }
    addresses = []
    for pod in _pods(objects):
        service = balancers[pod]
        (port,) = service["spec"]["ports"]
        assert port["protocol"] == "UDP"
        assert service["spec"]["externalTrafficPolicy"] == "Local"
        assert all(not network.endswith("/0") for network in service["spec"]["loadBalancerSourceRanges"])
        advertised = yaml.safe_load(_configuration(objects, pod))["gossip"]["advertise"]
        addresses.append(advertised)
        fixed = json.dumps([service["metadata"]["annotations"], service["spec"].get("loadBalancerIP")])
        assert advertised.split(":")[0] in fixed or "eipalloc-" in fixed
    assert len(set(addresses)) == len(addresses)
    (policy,) = of_kind(objects, "NetworkPolicy")
    (gossip,) = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["protocol"] == "UDP"]
    assert gossip["from"], "gossip is open to the world"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_stopping_router_outlives_its_longest_stream(case: Case, helm: Path) -> None:
    objects = render(helm, case)
    pod = _workload(objects)["spec"]["template"]["spec"]
    config = yaml.safe_load(_configuration(objects, _pods(objects)[0]))
    longest, drain = (
        int(text.removesuffix("s")) for text in (config["timeouts"]["total"], config["server"]["drainTimeout"])
    )
    before = _router(objects)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before >= 1
    assert drain > longest
    assert pod["terminationGracePeriodSeconds"] > before + drain


def test_routers_are_spread_and_never_all_moved_at_once(helm: Path) -> None:
    objects = render(helm, REGION)
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    spread = _workload(objects)["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {item["topologyKey"] for item in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    (scaled,) = [render(helm, case) for case in CASES if of_kind(render(helm, case), "HorizontalPodAutoscaler")]
    assert "replicas" not in _workload(scaled)["spec"], "a second hand on the number of routers"


def test_the_ledger_keeps_its_volume(helm: Path) -> None:
    objects = render(helm, DEFAULTS, "--set", "ledger.enabled=true,ledger.storageClassName=gp3")
    workload = _workload(objects)
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "gp3"
    assert workload["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    path = yaml.safe_load(_configuration(objects, "router-0"))["ledger"]["path"]
    mounts = [mount["mountPath"] for mount in _router(objects)["volumeMounts"] if mount["name"] == "ledger"]
    assert [path.startswith(f"{mount}/") for mount in mounts] == [True]


@pytest.mark.parametrize("values", ["ci/files.yaml", "ci/relay-gcp.yaml"])
def test_peers_requests_come_in_where_the_router_says(values: str, helm: Path) -> None:
    objects = render(helm, Case("router", values))
    relay = yaml.safe_load(_configuration(objects, "router-0"))["gossip"]["relay"]
    _, port = relay["listen"].split(":")
    host, advertised = relay["advertise"].split(":")
    assert host == yaml.safe_load(_configuration(objects, "router-0"))["gossip"]["advertise"].split(":")[0]
    balancers = [item["spec"] for item in of_kind(objects, "Service") if item["spec"].get("type") == "LoadBalancer"]
    ports = {(item["protocol"], str(item["port"])) for spec in balancers for item in spec["ports"]}
    assert ("TCP", advertised) in ports
    assert all(spec["loadBalancerSourceRanges"] for spec in balancers)
    assert port in {str(item["containerPort"]) for item in _router(objects)["ports"] if item["name"] == "relay"}
    (policy,) = of_kind(objects, "NetworkPolicy")
    (rule,) = [rule for rule in policy["spec"]["ingress"] if {"port": "relay", "protocol": "TCP"} in rule["ports"]]
    assert rule["from"]


def test_clients_need_a_key_unless_it_is_said_out_loud(helm: Path) -> None:
    for case in CASES:
        objects = render(helm, case)
        auth = yaml.safe_load(_configuration(objects, _pods(objects)[0]))["auth"]
        said = case.values and "mode: none" in (CHARTS / "router" / case.values).read_text()
        assert (auth == "none") == bool(said), case
    objects = render(helm, Case("router", "ci/autoscaling-csi.yaml"))
    auth = yaml.safe_load(_configuration(objects, _pods(objects)[0]))["auth"]
    mounts = {mount["mountPath"] for mount in _router(objects)["volumeMounts"]}
    assert str(Path(auth["keysFile"]).parent) in mounts
    (monitor,) = of_kind(objects, "ServiceMonitor")
    shown = monitor["spec"]["endpoints"][0]["authorization"]["credentials"]
    (asked,) = [env for env in _router(objects)["env"] if auth["metricsToken"] == f"${{{env['name']}}}"]
    assert asked["valueFrom"]["secretKeyRef"] == shown


def test_whatever_lies_in_the_folder_of_rules_and_dashboards_is_deployed(helm: Path) -> None:
    objects = render(helm, REGION)
    names = {item["metadata"]["name"] for item in objects}
    rules = list((CHARTS / "router/files/rules").glob("*.yaml"))
    assert rules
    assert {f"router-{file.stem}" for file in rules} <= names
    assert {f"router-{file.stem}" for file in (CHARTS / "router/files/dashboards").glob("*.json")} <= names
    for item in of_kind(objects, "PrometheusRule"):
        for group in item["spec"]["groups"]:
            for rule in (rule for rule in group["rules"] if "alert" in rule):
                assert rule["labels"]["severity"] in ("page", "ticket")
                assert rule["annotations"]["summary"]
                assert "runbook_url" not in rule["annotations"]


def test_an_alert_links_to_its_entry_of_the_runbook(helm: Path) -> None:
    objects = render(helm, REGION, "--set", "monitoring.prometheusRule.runbook=https://docs.example/RUNBOOK.md")
    groups = [group for item in of_kind(objects, "PrometheusRule") for group in item["spec"]["groups"]]
    rules = [rule for group in groups for rule in group["rules"]]
    for rule in rules:
        told = rule.get("annotations", {}).get("runbook_url")
        assert told == (f"https://docs.example/RUNBOOK.md#{rule['alert'].lower()}" if "alert" in rule else None)
    assert any("record" in rule for rule in rules)


def test_rules_ask_only_for_metrics_that_are_documented() -> None:
    documented = set(
        re.findall(r"`(llm_(?:router|sidecar)_[a-z_0-9]+)", (CHARTS.parent / "docs/METRICS.md").read_text())
    )
    documented |= set(re.findall(r"`(llm_sidecar_[a-z_0-9]+)", (CHARTS.parent / "docs/SIDECAR.md").read_text()))
    for file in CHARTS.glob("*/files/rules/*.yaml"):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                asked = set(re.findall(r"\bllm_(?:router|sidecar)_[a-z_0-9]+", rule["expr"]))
                unknown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} - documented
                assert not unknown, f"{file.name}: {rule.get('alert')} asks for {unknown}"


REFUSED = {
    "replicas=3": "gossip.enabled is false, but there are up to 3 routers",
    "replica=3": "additional properties 'replica' not allowed",
    "replicas=0": "minimum: got 0, want 1",
    "image.tag=latest": "changes under a running release",
    "image.digest=sha256:12": "does not match pattern",
    "resources.requests.memory=256Mb": "does not match pattern",
    "config.clusters[0].costPerHour=-1": "/config/clusters/0/costPerHour': minimum: got -1, want 0",
    "config.clusters[0].costPerHuor=1": "additional properties 'costPerHuor' not allowed",
    "config.router.routingStrategy=hybird": "value must be one of 'hybrid'",
    "config.node.name=a": "config.node is filled in by the chart: set `cloud` and `region`",
    "config.gossip.listen=x": "config.gossip.listen is filled in by the chart",
    "config.gossip.interval=1s": "gossip.enabled is false",
    "gossip.relay.enabled=true": "peers prove themselves by their gossip identities",
    "gossip.enabled=true,gossip.relay.enabled=true,gossip.relay.port=8080": "which another listener has",
    "config.ledger.posture=open": "ledger.enabled is false",
    "config.ledger.path=/x,ledger.enabled=true": "config.ledger.path is filled in by the chart",
    "config.server.port=1": "config.server.port is filled in by the chart",
    "config.timeouts.total=5m": "set that",
    "config.clusters[0].sharedSecret=${NOBODY}": "${NOBODY}, which nothing sets: add NOBODY to secretEnv",
    "env.A=b,secretEnv.A.name=x,secretEnv.A.key=y": "A is in env and is a secret too",
    "config.clusters=null": "nobody to ask",
    "config.clusters[0].authType=hmac": "has authType hmac and no sharedSecret",
    "config.clusters[0].authType=mtls": "has authType mtls and no certFile",
    "config.externalProviders[0].name=llama": "config names `llama` twice",
    "files.router\\.yaml=x": "files has router.yaml, which the chart makes itself",
    "gossip.identity=null": "missing property 'identity'",
    "auth.mode=maybe": "value must be one of 'keys', 'none'",
    "auth.apiKey.name=": "name the Secret with the clients' first key",
    "admin.enabled=true": "admin.tokenSecret.name is empty",
    "externalSecrets.enabled=true": "externalSecrets.store.name is empty",
    "httpRoute.enabled=true": "httpRoute.parentRefs is empty",
    "ingress.enabled=true": "ingress.hosts is empty",
    "gossip.public.enabled=true": "but gossip.enabled is false",
    "gossip.enabled=true,gossip.identity.issuerRef.name=": "name cert-manager's issuer",
    "gossip.enabled=true,gossip.identity.durationHours=5": "renewed without end",
    "gossip.enabled=true,gossip.public.enabled=true": "0 addresses for up to 1 routers",
    "gossip.public.addresses={gossip.example.org}": "does not match pattern",
    "gossip.seeds={gossip.example.org}": "does not match pattern",
    "fullnameOverride=a-name-that-is-far-too-long-for-a-router,region=a-region-that-is-very-long": "at most 64",
    "autoscaling.enabled=true,autoscaling.minReplicas=7,gossip.enabled=true": "above autoscaling.maxReplicas",
}
GOSSIPING = "gossip.enabled=true,gossip.public.enabled=true,gossip.public.addresses={203.0.113.1}"
REFUSED |= {
    GOSSIPING: "gossip port would be open to the world",
    f"{GOSSIPING},gossip.public.allowedCIDRs={{0.0.0.0/0}}": "the whole world",
    f"{GOSSIPING},gossip.public.allowedCIDRs={{10.0.0.0/8}},cloud=aws": "eipAllocations has 0 entries",
    f"{GOSSIPING.replace('203.0.113.1', '203.0.113.1,203.0.113.1')},gossip.public.allowedCIDRs={{10.0.0.0/8}}": "twice",
}


@pytest.mark.parametrize(("values", "says"), REFUSED.items(), ids=list(REFUSED))
def test_a_wrong_value_fails_early_and_says_why(values: str, says: str, helm: Path) -> None:
    run = template(helm, DEFAULTS, "--set", values)
    assert run.returncode != 0
    assert says in run.stderr


def test_the_values_schema_holds_the_binary_s_own_schema(llm_router: Path) -> None:
    now = json.loads(config_schema.SCHEMA.read_text())
    wanted = config_schema.embedded(now, config_schema.own_schema(llm_router))
    assert now == wanted, "the configuration has changed: run `python3 tests/deploy/config_schema.py`"


def test_rendered_routers_find_each_other_with_their_certificates(
    helm: Path, llm_router: Path, tmp_path: Path, processes: Processes
) -> None:
    """Two routers of a rendered region, their folders and addresses moved to this machine."""
    objects = render(helm, REGION)
    ca = tmp_path / "ca"
    subprocess.run(
        [llm_router, "certs", "init", "--dir", ca, "--cluster-id", "llm-router"],
        check=True,
        timeout=20,
        capture_output=True,
    )
    pods = _pods(objects)[:2]
    gossip, http = [free_port() for _ in pods], [free_port() for _ in pods]
    for at, pod in enumerate(pods):
        config = yaml.safe_load(_configuration(objects, pod).replace("/etc/llm-router", str(tmp_path)))
        name = config["node"]["name"].replace("${POD_NAME}", pod)
        home = tmp_path / "identity" / pod
        issue = [llm_router, "certs", "issue", "--dir", ca, "--node", name, "--out", home]
        subprocess.run(issue, check=True, timeout=20, capture_output=True)
        # As a Secret of cert-manager's names them.
        (home / f"{name}.pem").rename(home / "tls.crt")
        (home / f"{name}.key").rename(home / "tls.key")
        (home / "ca.pem").rename(home / "ca.crt")
        config["server"] |= {"host": "127.0.0.1", "port": http[at]}
        config["gossip"] |= {
            "listen": f"127.0.0.1:{gossip[at]}",
            "advertise": config["gossip"]["advertise"].replace(":7946", f":{gossip[at]}"),
            "seeds": [f"127.0.0.1:{gossip[0]}"],
        }
        file = tmp_path / f"{pod}.yaml"
        file.write_text(yaml.safe_dump(config))
        environment = _environment(objects, pod, ip="127.0.0.1")
        processes.start(pod, [llm_router, "serve", "--config", file], environment)
    for port in http:
        eventually(
            lambda port=port: metric(port, "llm_router_gossip_peers") == "1",
            within=30,
            what=lambda port=port: f"a peer is seen on port {port}:\n{processes.said()}",
        )
