"""The official Node clients, each a file of `tests/node` run by Node's own test runner."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "node"
WITHIN = 80.0


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_the_node_client_works_with_every_kind_of_backend(router, mocks, name):
    env = {
        **os.environ,
        "ROUTER_URL": router.url,
        "UPSTREAM_URLS": json.dumps({kind: mock.url for kind, mock in mocks.items()}),
    }
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", f"{name}.test.mjs"],
        cwd=SCRIPTS,
        env=env,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed and int(passed[1]) >= 5 * len(mocks), "the runner found the tests"
