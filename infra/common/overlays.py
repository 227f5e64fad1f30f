"""Writes what differs from region to region: charts' values, Kubernetes objects, from the shared files.

A region's folder `deploy/overlays/ENV-REGION` is made here and never edited: `platformctl values`. What the
stacks have put out (`outputs.ENV.json`: addresses, registries, vaults) goes in once it is recorded; until
then a region's routers share with each other only.
"""

from __future__ import annotations

import json
from pathlib import Path

from .checks import HERE, Json, RefusedError, check_schema, stem

ROOT = HERE.parents[1]
MODELS = ROOT / "deploy" / "models"
HEADER = "# Made by `infra/platformctl values` from infra/common and deploy/models: change those, not this.\n"
# The environment variables that hold secrets, and what a cloud's store calls them.
SECRETS = {
    "CLUSTER_SECRET": "cluster-secret",
    "OPENAI_API_KEY": "openai",
    "ANTHROPIC_API_KEY": "anthropic",
    "GEMINI_API_KEY": "gemini",
}
PROVIDERS = [
    {"name": "openai", "type": "openai", "apiKey": "${OPENAI_API_KEY}", "defaultModel": "gpt-4o-mini"},
    {
        "name": "anthropic",
        "type": "claude",
        "apiKey": "${ANTHROPIC_API_KEY}",
        "defaultModel": "claude-3-5-haiku-latest",
    },
    {"name": "gemini", "type": "gemini", "apiKey": "${GEMINI_API_KEY}", "defaultModel": "gemini-1.5-flash"},
]
STORE = "llm-router"
CLIENT_KEYS = "client-keys"
OBJECTS = ["secrets.yaml", "client-keys.yaml", "shared-certificate.yaml", "region-certificate.yaml"]
STORAGE_CLASS = {"aws": "gp3", "gcp": "balanced", "azure": "premium"}
# Spot machines say that they go: AWS two minutes ahead, Google and Azure thirty seconds.
SPOT_NOTICE_SECONDS = {"aws": 120, "gcp": 30, "azure": 30}


def load_models(folder: Path = MODELS) -> Json:
    """deploy/models, or a refusal that names every wrong value."""
    models = json.loads((folder / "models.json").read_text())
    schema = json.loads((folder / "models.schema.json").read_text())
    found = check_schema(models, schema, schema)
    for pool, served in models.get("served", {}).items():
        if found:
            break
        model = models["models"].get(served["model"])
        if model is None:
            known = ", ".join(models["models"])
            found.append(f"served.{pool}.model: no model `{served['model']}`: there is {known}")
        elif served["contextWindow"] > model["contextWindow"]:
            limit = model["contextWindow"]
            found.append(f"served.{pool}.contextWindow: `{served['contextWindow']}` is more than the model's {limit}")
    if found:
        raise RefusedError("\n".join([f"{folder / 'models.json'} cannot be used:", *(f"  {line}" for line in found)]))
    return models


def load_outputs(env: str, folder: Path = HERE) -> Json:
    """What the stacks of an environment have put out, as `setup` recorded it; nothing before."""
    path = folder / f"outputs.{env}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def domain(platform: Json, env: str, key: str | None = None) -> str:
    """The domain of an environment, or of one of its regions."""
    base = platform["domain"] if env == "prod" else f"{env}.{platform['domain']}"
    return f"{key}.{base}" if key else base


def overlays(platform: Json, models: Json, outputs: dict[str, Json]) -> dict[str, str]:
    """Every file of every region's folder: path below deploy/overlays, and content."""
    files = {}
    for env in platform["environments"]:
        for key in platform["regions"]:
            one = Overlay(platform, models, outputs.get(env, {}), env, key)
            files |= {f"{env}-{key}/{name}": HEADER + to_yaml(content) for name, content in one.files().items()}
    return files


class Overlay:
    """One region of one environment."""

    def __init__(self, platform: Json, models: Json, outputs: Json, env: str, key: str) -> None:
        self.platform, self.models, self.outputs, self.env, self.key = platform, models, outputs, env, key
        self.region = platform["regions"][key]
        self.settings = platform["environments"][env]
        self.own = outputs.get(key, {})
        self.cloud = self.region["cloud"]

    def files(self) -> dict[str, Json]:
        """The folder's files by name."""
        made = {
            "kustomization.yaml": self.kustomization(),
            "router.yaml": self.router(),
            "llm-server-cpu.yaml": self.server("cpu"),
            "llm-server-gpu.yaml": self.server("gpu"),
            "exporters.yaml": self.exporters(),
            "platform.yaml": self.part_values(),
            "secrets.yaml": self.cluster_secret(),
            "client-keys.yaml": self.client_keys(),
            "shared-certificate.yaml": self.shared_certificate(),
            "region-certificate.yaml": self.region_certificate(),
        }
        if store := self.store():
            made["secret-store.yaml"] = store
            if self.cloud == "azure":
                made["secret-reader.yaml"] = self.secret_reader()
        return made

    def kustomization(self) -> Json:
        """Namespaces, classes and quotas of every cluster, what the cloud adds, and who this cluster is."""
        stores = ["secret-store.yaml"] if self.store() else []
        stores += ["secret-reader.yaml"] if stores and self.cloud == "azure" else []
        return {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"../{self.env}", *stores, *OBJECTS],
            "components": [f"../../components/{self.cloud}"],
            "labels": [{"pairs": {"llm-router/environment": self.env, "llm-router/region": self.key}}],
        }

    # --- the routers ---

    def router(self) -> Json:
        """Values of charts/router."""
        names = self.platform["names"]
        values: Json = {
            "cloud": self.cloud,
            "region": self.region["region"],
            "replicas": self.settings["gossipAddresses"],
            "nodeSelector": {self.platform["scheduling"]["poolLabel"]: "system"},
            "serviceAccount": {"name": names["serviceAccounts"]["router"]},
            "gossip": self.gossip(),
            "config": {
                "router": {"routingStrategy": "hybrid", "clusterCostThreshold": 0.01},
                "clusters": [entry for key in self.platform["regions"] for entry in self.clusters(key)],
                "externalProviders": PROVIDERS,
            },
            "auth": {"mode": "keys", "apiKey": {"name": CLIENT_KEYS, "key": "api-key"}},
            "priorityClassName": "llm-router",
            "externalSecrets": {
                "enabled": True,
                "store": {"name": STORE, "kind": "ClusterSecretStore"},
                "data": {variable: {"key": self.secret(name)} for variable, name in SECRETS.items()},
            },
            "ledger": {"enabled": True, "storageClassName": STORAGE_CLASS[self.cloud]},
            "monitoring": {
                "serviceMonitor": {"enabled": True},
                "prometheusRule": {"enabled": True},
                "dashboards": {"enabled": True},
            },
            "ingress": {
                "enabled": True,
                "className": "traefik",
                "hosts": [self.region_name(), self.geo_name()],
                "tls": [
                    {"secretName": "region-tls", "hosts": [self.region_name()]},
                    {"secretName": "shared-tls", "hosts": [self.geo_name()]},
                ],
            },
        }
        if registry := self.own.get("registry"):
            values["image"] = {"repository": registry}
        return values

    def geo_name(self) -> str:
        """The name that leads to the nearest region."""
        return f"{self.platform['health']['host']}.{domain(self.platform, self.env)}"

    def region_name(self) -> str:
        """The name of this region's routers alone: health checks ask for it."""
        return f"{self.platform['health']['host']}.{domain(self.platform, self.env, self.key)}"

    def gossip(self) -> Json:
        """Gossip among this region's routers; with the others once addresses are recorded."""
        shared = self.platform["gossip"]
        made: Json = {"enabled": True, "clusterId": f"{shared['clusterId']}-{self.env}", "port": shared["port"]}
        # Made by `setup`, changed by `rotate-ca`: two authorities while one replaces the other.
        made["identity"] = {"trustBundle": {"configMap": "llm-router-trust", "key": "ca.crt"}}
        if not self.own.get("inbound"):
            return made
        others = {key: both for key, both in self.outputs.items() if key != self.key}
        made["seeds"] = [f"{address}:{shared['port']}" for both in others.values() for address in both["inbound"]]
        sources = sorted({f"{address}/32" for both in self.outputs.values() for address in both["outbound"]})
        if self.cloud != "aws":
            sources.append(self.region["network"]["pods"])
        made["public"] = {"enabled": True, "addresses": self.own["inbound"], "allowedCIDRs": sources}
        if self.cloud == "aws":
            made["public"]["aws"] = {
                "eipAllocations": self.own["gossipAllocations"],
                "subnets": self.own["gossipSubnets"],
            }
            group = self.own["gossipGroup"]
            made["public"]["annotations"] = {
                # The group that infra/ made, and the controller's own towards the pods.
                "service.beta.kubernetes.io/aws-load-balancer-security-groups": group,
                "service.beta.kubernetes.io/aws-load-balancer-manage-backend-security-group-rules": "true",
            }
        if self.cloud == "azure":
            made["public"]["azure"] = {"resourceGroup": self.own["resourceGroup"]}
        return made

    def clusters(self, key: str) -> list[Json]:
        """The entries of a region's clusters in every router's configuration."""
        region, names = self.platform["regions"][key], self.platform["names"]
        entries = []
        for pool in ("cpu", "gpu"):
            served = self.models["served"][pool]
            inside = f"http://{pool}-llm-server.{names['namespaces']['models']}.svc:8443"
            outside = f"https://llm-{pool}.{domain(self.platform, self.env, key)}"
            entries.append(
                {
                    "name": f"{key}-{pool}",
                    "endpoint": inside if key == self.key else outside,
                    "provider": region["cloud"],
                    "region": region["region"],
                    "costPerHour": region["machines"][pool]["spotHour"]["usd"],
                    "authType": "hmac",
                    "sharedSecret": "${CLUSTER_SECRET}",
                    "models": [
                        {
                            "name": served["model"],
                            "aliases": served["aliases"],
                            "contextWindow": served["contextWindow"],
                        }
                    ],
                    "slots": served["slots"],
                }
            )
        return entries

    # --- the model servers ---

    def server(self, pool: str) -> Json:
        """Values of charts/llm-server for one pool; what all GPUs of a cloud share is in overlays/gpu-CLOUD."""
        served, names = self.models["served"][pool], self.platform["names"]
        model = self.models["models"][served["model"]]
        machine, bounds = self.region["machines"][pool], self.settings["pools"][pool]
        scheduling = self.platform["scheduling"]
        taints = [scheduling["spotTaint"], *([scheduling["gpuTaint"]] if pool == "gpu" else [])]
        notice = SPOT_NOTICE_SECONDS[self.cloud]
        values: Json = {
            "cluster": f"{self.key}-{pool}",
            "cloud": self.cloud,
            "region": self.region["region"],
            "costPerHour": machine["spotHour"]["usd"],
            "model": {
                "name": served["model"],
                "uri": self.model_uri(model),
                "sha256": model["sha256"],
                "storage": {
                    "kind": "ephemeral",
                    "size": f"{-(-model['bytes'] * 2 // 2**30) + 1}Gi",
                    "storageClassName": STORAGE_CLASS[self.cloud],
                },
            },
            "llama": {
                "slots": served["slots"],
                "contextWindow": served["contextWindow"],
                "threads": machine["vcpus"] - 1,
            },
            "sidecar": {"secret": {"name": "cluster-secret", "key": "cluster"}},
            "autoscaling": {
                "kind": "keda",
                "minReplicas": 0 if pool == "gpu" or bounds["min"] == 0 else 1,
                "maxReplicas": bounds["max"],
                "cooldownSeconds": 900 if pool == "gpu" else 300,
            },
            "drain": {"longestStreamSeconds": max(notice - 20, 15), "preStopSeconds": 5},
            "serviceAccount": {"name": names["serviceAccounts"]["models"]},
            "priorityClassName": "llm-models",
            "nodeSelector": {scheduling["poolLabel"]: pool},
            "tolerations": [
                {"key": taint["key"], "operator": "Equal", "value": taint["value"], "effect": taint["effect"]}
                for taint in taints
            ],
            "ingress": {
                "enabled": True,
                "className": "traefik",
                "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"},
                "host": f"llm-{pool}.{domain(self.platform, self.env, self.key)}",
                "tlsSecret": f"llm-{pool}-tls",
            },
            "networkPolicy": {
                "enabled": True,
                "ingressFrom": [
                    {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
                    for name in (names["namespaces"]["router"], "traefik", names["namespaces"]["monitoring"])
                ],
            },
            "monitoring": {"serviceMonitor": {"enabled": True}},
        }
        if self.cloud == "azure":
            # AKS taints spot machines with a key of its own beside ours.
            spot = "kubernetes.azure.com/scalesetpriority"
            values["tolerations"].append({"key": spot, "operator": "Equal", "value": "spot", "effect": "NoSchedule"})
            if client := self.own.get("clientIds", {}).get("models"):
                values["serviceAccount"]["annotations"] = {"azure.workload.identity/client-id": client}
                values["podLabels"] = {"azure.workload.identity/use": "true"}
        if registry := self.own.get("registry"):
            values["sidecar"]["image"] = {"repository": registry}
        return values

    def exporters(self) -> Json:
        """Values of charts/exporters: every server here has a sidecar, so only its rules are wanted."""
        pool = self.platform["scheduling"]["poolLabel"]
        return {"targets": [], "nodeSelector": {pool: "system"}, "monitoring": {"prometheusRule": {"enabled": True}}}

    def part_values(self) -> Json:
        """Values of charts/platform: what of its parts depends on the cloud and the region."""
        names = self.platform["names"]
        zone = domain(self.platform, self.env, self.key)
        balancer: Json = {
            "aws": {
                "annotations": {
                    "service.beta.kubernetes.io/aws-load-balancer-scheme": "internet-facing",
                    "service.beta.kubernetes.io/aws-load-balancer-nlb-target-type": "ip",
                    "service.beta.kubernetes.io/aws-load-balancer-attributes": "load_balancing.cross_zone.enabled=true",
                },
                "spec": {"loadBalancerClass": "service.k8s.aws/nlb"},
            },
            "gcp": {"annotations": {"cloud.google.com/l4-rbs": "enabled"}},
            "azure": {
                "annotations": {"service.beta.kubernetes.io/azure-load-balancer-health-probe-request-path": "/ping"}
            },
        }[self.cloud]
        claim = {"volumeClaimTemplate": {"spec": {"storageClassName": STORAGE_CLASS[self.cloud]}}}
        dns: Json = {
            "enabled": True,
            "provider": {"name": {"aws": "aws", "gcp": "google", "azure": "azure"}[self.cloud]},
            "txtOwnerId": stem(self.platform, self.env, self.key),
            # Its own zone and no other: the shared name belongs to infra/dns.
            "domainFilters": [zone],
            "serviceAccount": {"name": names["serviceAccounts"]["dns"]},
        }
        if client := self.own.get("clientIds", {}).get("dns"):
            use = {"azure.workload.identity/use": "true"}
            dns["serviceAccount"] |= {"labels": use, "annotations": {"azure.workload.identity/client-id": client}}
            dns["podLabels"] = use
        return {
            # An intermediate of the one root: `deploy/scripts/rotate-ca`.
            "authority": {"kind": "secret", "secretName": "llm-router-root"},
            "acme": {"enabled": True, "email": self.platform["contact"]},
            "traefik": {"service": balancer},
            "kube-prometheus-stack": {"prometheus": {"prometheusSpec": {"storageSpec": claim}}},
            "external-dns": dns,
        }

    def model_uri(self, model: Json) -> str:
        """The region's own copy once its bucket is known; before that where the world has it."""
        bucket = self.own.get("models")
        if not bucket:
            return model["uri"]
        scheme = {"aws": "s3", "gcp": "gs", "azure": "azblob"}[self.cloud]
        return f"{scheme}://{bucket}/{model['file']}"

    # --- secrets ---

    def secret(self, name: str) -> str:
        """What the cloud's own store calls a secret."""
        prefix = stem(self.platform, self.env, self.key)
        return {"aws": f"{prefix}/{name}", "gcp": f"{prefix}-{name}", "azure": name}[self.cloud]

    def store(self) -> Json | None:
        """The cluster's way to its cloud's secrets, by the operator's identity; not before it is known."""
        provider: Json
        if self.cloud == "aws":
            # Pod identity: nothing to name but the region.
            provider = {"aws": {"service": "SecretsManager", "region": self.region["region"]}}
        elif self.cloud == "gcp":
            if not (project := self.own.get("project")):
                return None
            provider = {"gcpsm": {"projectID": project}}
        else:
            if not (vault := self.own.get("vault")):
                return None
            url = f"https://{vault}.vault.azure.net"
            account = {key: self.secret_reader()["metadata"][key] for key in ("name", "namespace")}
            provider = {"azurekv": {"authType": "WorkloadIdentity", "vaultUrl": url, "serviceAccountRef": account}}
        return {
            "apiVersion": "external-secrets.io/v1",
            "kind": "ClusterSecretStore",
            "metadata": {"name": STORE},
            "spec": {"provider": provider},
        }

    def secret_reader(self) -> Json:
        """Azure: the account the vault is read as."""
        names = self.platform["names"]
        annotations = {
            "azure.workload.identity/client-id": self.own.get("clientIds", {}).get("secrets", ""),
            "azure.workload.identity/tenant-id": self.own.get("tenantId", ""),
        }
        return {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {
                "name": names["serviceAccounts"]["secretReader"],
                "namespace": names["namespaces"]["platform"],
                "annotations": annotations,
            },
        }

    def cluster_secret(self) -> Json:
        """The secret that routers sign with, for the sidecars."""
        return self.fetched("models", "cluster-secret", {"cluster": SECRETS["CLUSTER_SECRET"]})

    def client_keys(self) -> Json:
        """The clients' first key, for the routers."""
        return self.fetched("router", CLIENT_KEYS, {"api-key": "api-key"})

    def shared_certificate(self) -> Json:
        """The certificate of the name all regions share: no region alone can prove that it owns that name."""
        return self.fetched("router", "shared-tls", {"tls.crt": "shared-tls-crt", "tls.key": "shared-tls-key"})

    def region_certificate(self) -> Json:
        """The certificate of this region's own name, proven in this region's own zone."""
        return {
            "apiVersion": "cert-manager.io/v1",
            "kind": "Certificate",
            "metadata": {"name": "region-tls", "namespace": self.platform["names"]["namespaces"]["router"]},
            "spec": {
                "secretName": "region-tls",
                "dnsNames": [self.region_name()],
                "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"},
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            },
        }

    def fetched(self, namespace: str, name: str, data: dict[str, str]) -> Json:
        """A Secret that the operator fetches: its keys, and what the store calls them."""
        return {
            "apiVersion": "external-secrets.io/v1",
            "kind": "ExternalSecret",
            "metadata": {"name": name, "namespace": self.platform["names"]["namespaces"][namespace]},
            "spec": {
                "refreshInterval": "1h",
                "secretStoreRef": {"name": STORE, "kind": "ClusterSecretStore"},
                "target": {"name": name} | ({"template": {"type": "kubernetes.io/tls"}} if "tls.crt" in data else {}),
                "data": [{"secretKey": key, "remoteRef": {"key": self.secret(kept)}} for key, kept in data.items()],
            },
        }


def to_yaml(value: Json, indent: int = 0) -> str:
    """YAML of mappings, lists and scalars; text is quoted as JSON does, which YAML reads alike."""
    pad = "  " * indent
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            name = key if key.replace("-", "").replace("_", "").isalnum() and not key[0].isdigit() else json.dumps(key)
            if isinstance(item, dict | list) and item:
                lines.append(f"{pad}{name}:\n{to_yaml(item, indent + 1)}")
            else:
                lines.append(f"{pad}{name}: {json.dumps(item)}\n")
        return "".join(lines)
    lines = []
    for item in value:
        if isinstance(item, dict) and item:
            lines.append(f"{pad}- {to_yaml(item, indent + 1).lstrip()}")
        else:
            lines.append(f"{pad}- {json.dumps(item)}\n")
    return "".join(lines)
