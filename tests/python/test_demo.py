"""The demo: three regions in one process, ended by its duration or by Ctrl-C."""

from __future__ import annotations

import re
import signal

import httpx
import openai
import pytest
from binary import Service
from process import free_port_run
from waiting import eventually

SHOWN_WITHIN = 20.0
REGION_COUNT = 3


def start(crew, duration: str) -> tuple[Service, list[str]]:
    first = free_port_run(REGION_COUNT)
    demo = Service("demo", ["demo", "--port", str(first), "--duration", duration, "--no-open"], crew.log("demo"))
    crew.add(demo)
    demo.start()
    urls = [f"http://127.0.0.1:{port}" for port in range(first, first + REGION_COUNT)]
    for url in urls:
        demo.wait_until(lambda url=url: httpx.get(f"{url}/readyz", timeout=5).status_code == 200, SHOWN_WITHIN, "ready")
    return demo, urls


def test_three_regions_answer_show_a_page_and_end_by_themselves(crew):
    demo, urls = start(crew, "15s")
    for url in urls:
        port = url.rsplit(":", 1)[1]
        eventually(
            lambda port=port: re.search(rf"http://[\w.]+:{port}\b", demo.output()), 5, f"prints the URL of {port}"
        )
    assert "curl" in demo.output()

    regions = set()
    for url in urls:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)
        assert client.models.list().data
        messages = [{"role": "user", "content": "Which cloud answers?"}]
        raw = client.chat.completions.with_raw_response.create(model="auto", messages=messages, max_tokens=20)
        assert raw.parse().choices[0].message.content
        assert raw.headers["x-llm-router-backend"]
        regions.add(raw.headers["x-llm-router-region"])
        pieces = client.chat.completions.create(model="auto", messages=messages, max_tokens=20, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices)
    assert len(regions) == REGION_COUNT

    page = httpx.get(f"{urls[0]}/", timeout=5, follow_redirects=True)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "<html" in page.text.lower()
    # The page must work without the outside world.
    assert not re.search(r'(?:src|href)="https?://', page.text)

    metrics = httpx.get(f"{urls[0]}/metrics", timeout=5).text
    assert "\nllm_router_routing_decisions_total{" in metrics
    assert demo.wait(15 + 10) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_cleanly(crew, number):
    demo, urls = start(crew, "5m")
    demo.signal(number)
    assert demo.wait(10) == 0
    for url in urls:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/livez", timeout=5)


def test_a_taken_port_is_named_and_nothing_is_left_behind(crew):
    _, urls = start(crew, "5m")
    port = urls[0].rsplit(":", 1)[1]
    second = Service("second", ["demo", "--port", port, "--duration", "5s", "--no-open"], crew.log("second"))
    crew.add(second)
    second.start()
    assert second.wait(15) == 1
    assert port in second.output()
