"""Who is measured: the upstream itself, blind reverse proxies, this router in its shapes, gateways given by URL."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .process import Process, free_port

MODEL = "bench-model"
CLIENT_KEY = "bench-client-key"
PROVIDER_KEY = "bench-provider-key"
ADMIN_TOKEN = "bench-admin-token"
# Bytes of a request's body, as in the measurements of others this is compared with.
BODY_BYTES = 600
EVENTS = 40

# The load and the upstream share one processor, the measured one has another to itself.
OTHERS, MEASURED = {0}, {1}

Json = dict[str, Any]


@dataclass
class Target:
    """Where and what to ask."""

    url: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Contestant:
    """One thing to measure: how it is started, and what it is asked."""

    name: str
    start: Callable[[Path], tuple[Process | None, Target]]


def padded(request: Json) -> bytes:
    """The request with so long a prompt that its body has `BODY_BYTES`."""
    messages = request["messages"]
    messages[-1]["content"] = ""
    missing = BODY_BYTES - len(json.dumps(request))
    words = "why is the sky blue at noon and red at dusk " * (missing // 10)
    messages[-1]["content"] = words[:missing]
    return json.dumps(request).encode()


def chat(stream: bool = False, **more: Any) -> bytes:
    """A request in OpenAI's dialect."""
    request: Json = {"model": MODEL, "messages": [{"role": "user", "content": ""}], "max_tokens": 64, **more}
    if stream:
        request["stream"] = True
    return padded(request)


def messages() -> bytes:
    """The same in Anthropic's dialect, which this router translates for an OpenAI backend."""
    return padded({"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": ""}]})


ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Air scatters blue light more than red. " * 5},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 120, "completion_tokens": 50, "total_tokens": 170},
    }
)


def events() -> str:
    """A whole stream of `EVENTS` content events, all of which can be read together."""

    def chunk(**more: Any) -> str:
        frame = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": MODEL}
        return f"data: {json.dumps({**frame, **more})}\n\n"

    def choice(delta: Json, finish: str | None = None) -> list[Json]:
        return [{"index": 0, "delta": delta, "finish_reason": finish}]

    parts = [chunk(choices=choice({"role": "assistant", "content": ""}))]
    parts += [chunk(choices=choice({"content": f"word{number} "})) for number in range(EVENTS)]
    parts.append(chunk(choices=choice({}, "stop")))
    usage = {"prompt_tokens": 120, "completion_tokens": EVENTS, "total_tokens": 120 + EVENTS}
    parts.append(chunk(choices=[], usage=usage))
    return "".join(parts) + "data: [DONE]\n\n"


NGINX = """
daemon off; master_process on; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 16384; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000; keepalive_timeout 600s; client_body_buffer_size 64k;
  types {{ }} default_type application/json;
{inside}
}}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  http-reuse always
"""
HAPROXY_PROXY = """
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server s 127.0.0.1:{upstream} maxconn 8192
"""


def nginx(folder: Path, inside: str, cpus: set[int]) -> Process:
    """An nginx with these servers."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, inside=inside))
    return Process(["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(file)], folder / "log", cpus)


class Upstream:
    """A backend that costs next to nothing: haproxy with answers that never change."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.stream_port = free_port(), free_port()
        models = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        (folder / "models").write_text(models)
        text = HAPROXY
        for port, kind, answer in (
            (self.port, "application/json", ANSWER),
            (self.stream_port, "text/event-stream", events()),
        ):
            (folder / str(port)).write_text(answer)
            text += f"""
frontend f{port}
  bind 127.0.0.1:{port}
  http-request return status 200 content-type application/json file {folder}/models if {{ path /v1/models }}
  http-request return status 200 content-type {kind} file {folder}/{port}
"""
        (folder / "haproxy.cfg").write_text(text)
        self.process = Process(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], folder / "log", OTHERS)
        self.process.wait_for(f"http://127.0.0.1:{self.port}/v1/models")

    def stop(self) -> None:
        """Ends it."""
        self.process.stop()


CHAT = "/v1/chat/completions"


def direct(port: int, body: bytes) -> Contestant:
    """Nothing between the client and the upstream."""
    return Contestant("direct", lambda _: (None, Target(f"http://127.0.0.1:{port}{CHAT}", body)))


def nginx_proxy(upstream: int, body: bytes) -> Contestant:
    """nginx, with connections to the upstream kept."""

    def start(folder: Path) -> tuple[Process, Target]:
        port = free_port()
        inside = f"""
  upstream u {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    proxy_http_version 1.1; proxy_buffering off; proxy_set_header Connection "";
    location / {{ proxy_pass http://u; }} }}
"""
        process = nginx(folder, inside, MEASURED)
        process.wait_for(f"http://127.0.0.1:{port}/v1/models")
        return process, Target(f"http://127.0.0.1:{port}{CHAT}", body)

    return Contestant("nginx", start)


def haproxy(upstream: int, body: bytes) -> Contestant:
    """haproxy, with connections to the upstream kept."""

    def start(folder: Path) -> tuple[Process, Target]:
        port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "haproxy.cfg"
        file.write_text(HAPROXY + HAPROXY_PROXY.format(port=port, upstream=upstream))
        process = Process(["haproxy", "-db", "-f", str(file)], folder / "log", MEASURED)
        process.wait_for(f"http://127.0.0.1:{port}/v1/models")
        return process, Target(f"http://127.0.0.1:{port}{CHAT}", body)

    return Contestant("haproxy", start)


@dataclass(frozen=True)
class Shape:
    """What this router is asked to do besides authentication, decision, accounting and metrics."""

    ledger: bool = False
    gossip: bool = False
    trace_share: float | None = None
    cache: bool = False
    backends: int = 1


def settings(folder: Path, upstream: int, port: int, shape: Shape) -> Json:
    """The router's configuration."""
    backends = [
        {
            "name": f"upstream-{number}",
            "type": "openai",
            "apiKey": PROVIDER_KEY,
            "baseURL": f"http://127.0.0.1:{upstream}",
            "defaultModel": MODEL,
            "models": [{"name": MODEL, "price": {"input": 1.0, "output": 3.0}}],
        }
        for number in range(shape.backends)
    ]
    chosen: Json = {
        "server": {"host": "127.0.0.1", "port": port},
        "node": {"name": "bench", "region": "here", "cloud": "local"},
        "admin": {"listen": f"127.0.0.1:{free_port()}", "token": ADMIN_TOKEN},
        "auth": {"keys": [{"id": "bench", "key": CLIENT_KEY, "tenant": "bench"}]},
        "router": {"routingStrategy": "cost", "stickinessWindow": "0s"},
        "externalProviders": backends,
    }
    if shape.gossip:
        chosen["gossip"] = {"listen": f"127.0.0.1:{free_port()}", "clusterId": "bench"}
    if shape.ledger:
        chosen["ledger"] = {"path": str(folder / "ledger.sqlite")}
    if shape.cache:
        chosen["cache"] = {}
    return chosen


def router(name: str, binary: str, upstream: int, body: bytes, shape: Shape, path: str = CHAT) -> Contestant:
    """This router."""

    def start(folder: Path) -> tuple[Process, Target]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        port = free_port()
        file = folder / "router.yaml"
        file.write_text(json.dumps(settings(folder, upstream, port, shape), indent=1))
        # Else Linux lets nobody but root read how much memory it has.
        env = {"LOG_LEVEL": "warn", "LLM_ROUTER_CORE_DUMPS": "on"}
        if shape.trace_share is not None:
            env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
            env |= {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": str(shape.trace_share)}
        process = Process([binary, "serve", "--config", str(file)], folder / "log", MEASURED, env)
        process.wait_for(f"http://127.0.0.1:{port}/readyz")
        headers = {"authorization": f"Bearer {CLIENT_KEY}"}
        return process, Target(f"http://127.0.0.1:{port}{path}", body, headers)

    return Contestant(name, start)


def given(word: str, body: bytes) -> Contestant:
    """A gateway that somebody started, as `NAME=URL=KEY`; its CPU time is not known."""
    name, url, key = word.split("=", 2)
    return Contestant(name, lambda _: (None, Target(url.rstrip("/") + CHAT, body, {"authorization": f"Bearer {key}"})))


def plain_contestants(binary: str, upstream: int, gateways: list[str]) -> list[Contestant]:
    """Whole answers: the proxies, and this router in the shapes its targets name."""
    everything = Shape(ledger=True, gossip=True, trace_share=0.01)

    def ours(name: str, shape: Shape, body: bytes = chat(), path: str = CHAT) -> Contestant:
        return router(name, binary, upstream, body, shape, path)

    return [
        direct(upstream, chat()),
        nginx_proxy(upstream, chat()),
        haproxy(upstream, chat()),
        ours("router", Shape()),
        ours("router, translated", Shape(), messages(), "/v1/messages"),
        ours("router, cached", Shape(cache=True), chat(temperature=0)),
        ours("router, cluster on", Shape(gossip=True)),
        ours("router, ledger on", Shape(ledger=True)),
        ours("router, 1 % traced", Shape(trace_share=0.01)),
        ours("router, all three", everything),
        ours("router, 3 backends", Shape(backends=3)),
        ours("router, 200 backends", Shape(backends=200)),
        *(given(word, chat()) for word in gateways),
    ]


def stream_contestants(binary: str, upstream: int, gateways: list[str]) -> list[Contestant]:
    """Streamed answers."""
    body = chat(stream=True)
    return [
        direct(upstream, body),
        nginx_proxy(upstream, body),
        haproxy(upstream, body),
        router("router", binary, upstream, body, Shape()),
        *(given(word, body) for word in gateways),
    ]
