"""Builds configuration files for the tests, in the very YAML that operators write."""

from __future__ import annotations

from typing import Any

from process import free_port

# What the tests ask the nodes to do, in seconds: llama-server must not be polled faster than this.
HEALTH_INTERVAL = 2.0
ADMIN_TOKEN = "admin-token-of-the-tests"
PROVIDER_KEY = "provider-key-of-the-tests"
SHARED_SECRET = "shared-secret-of-the-tests"
# Handed to every node; the files name them as `${…}` only.
ENVIRONMENT = {
    "TEST_ADMIN_TOKEN": ADMIN_TOKEN,
    "TEST_PROVIDER_KEY": PROVIDER_KEY,
    "TEST_SHARED_SECRET": SHARED_SECRET,
}

# The model name that clusters and providers of the tests share, so that one can stand in for the other.
SHARED_MODEL = "chat"

Settings = dict[str, Any]


def cluster(name: str, endpoint: str, model: str | None = None, **more: Any) -> Settings:
    """A self-hosted cluster; with `model` it also answers to the shared name."""
    settings: Settings = {
        "name": name,
        "endpoint": endpoint,
        "region": "us-west-2",
        "provider": "aws",
        "costPerHour": 0.0928,
        "authType": "none",
    }
    if model is not None:
        settings["models"] = [{"name": model, "aliases": [SHARED_MODEL]}]
    return {**settings, **more}


def provider(name: str, endpoint: str, model: str = "mock-model", kind: str = "openai", **more: Any) -> Settings:
    """An external provider, dearer than any cluster of the tests."""
    return {
        "name": name,
        "type": kind,
        "enabled": True,
        "apiKey": "${TEST_PROVIDER_KEY}",
        "baseURL": endpoint,
        "defaultModel": model,
        "models": [{"name": model, "aliases": [SHARED_MODEL], "price": {"input": 10.0, "output": 30.0}}],
        **more,
    }


def node(
    name: str = "node-a",
    *,
    region: str = "us-west-2",
    clusters: list[Settings] | None = None,
    providers: list[Settings] | None = None,
    gossip: Settings | None = None,
    timeouts: Settings | None = None,
    **router: Any,
) -> Settings:
    """The file of one router node on ports of its own."""
    settings: Settings = {
        "server": {"host": "127.0.0.1", "port": free_port()},
        "node": {"name": name, "region": region},
        "admin": {"listen": f"127.0.0.1:{free_port()}", "token": "${TEST_ADMIN_TOKEN}"},
        "router": {
            "routingStrategy": "cluster_first",
            "healthCheckInterval": f"{HEALTH_INTERVAL:g}s",
            "metricsUpdateInterval": f"{HEALTH_INTERVAL:g}s",
            "enableExternalFallback": True,
            # The tests look at each decision by itself, and count every request an upstream gets.
            "stickinessWindow": "0s",
            "calibrateThroughput": False,
            **router,
        },
        "clusters": clusters or [],
        "externalProviders": providers or [],
    }
    if gossip is not None:
        settings["gossip"] = gossip
    if timeouts is not None:
        settings["timeouts"] = timeouts
    return settings


def gossiping(count: int) -> list[Settings]:
    """The gossip sections of `count` nodes that start from each other."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
    return [{"listen": address, "seeds": [other for other in addresses if other != address]} for address in addresses]
