"""Keys of the binary: made, revoked on one router and closed on all, also after that router is killed."""

from __future__ import annotations

import json
import shutil
import time

import settings
import stage
from binary import command
from settings import ENVIRONMENT
from waiting import eventually

AUTH_SECRET = "auth-secret-of-the-tests-0123456789"


def test_a_key_revoked_on_one_router_is_closed_on_all_even_after_its_death(crew, tmp_path):
    llama = stage.mock(crew, "llama", model="m")
    files = [
        settings.node(f"n{nth}", clusters=[settings.cluster("gpu", llama.url, "m")], gossip=gossip)
        for nth, gossip in enumerate(settings.gossiping(3))
    ]
    for nth, file in enumerate(files):
        file["auth"] = {"keysFile": str(tmp_path / f"keys-{nth}.json"), "secret": AUTH_SECRET, "openMetrics": True}
    routers = stage.routers(crew, files)
    config = str(routers[0].file)
    made = command("keys", "create", "--config", config, "--tenant", "team", "--json", env=ENVIRONMENT)
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)
    assert key["key"] not in (tmp_path / "keys-0.json").read_text()
    for nth in (1, 2):
        shutil.copy(tmp_path / "keys-0.json", tmp_path / f"keys-{nth}.json")

    def status(router) -> int:
        return router.chat("m", headers={"authorization": f"Bearer {key['key']}"}).status_code

    for router in routers:
        eventually(lambda router=router: status(router) == 200, 10, "the new key opens")
    eventually(lambda: len(routers[0].view()["members"]) == 3, 10, "all three know each other")
    revoked = command("keys", "revoke", key["id"], "--config", config, env=ENVIRONMENT)
    assert revoked.returncode == 0, revoked.stderr
    at = time.monotonic()
    for router in routers:
        eventually(lambda router=router: status(router) == 401, 5, "the revoked key is closed")
    assert time.monotonic() - at < 2.0
    routers[0].kill()
    # A file that still has it open opens it no more.
    (tmp_path / "keys-1.json").touch()
    time.sleep(1.0)
    assert [status(router) for router in routers[1:]] == [401, 401]
    # Nor does a restart without the word of the file, as long as one router is left that knows.
    routers[2].kill()
    routers[2].start()
    eventually(lambda: status(routers[2]) == 401, 10, "the restarted router hears of it")


def test_without_auth_only_loopback_is_served_with_a_warning_and_nothing_else_is_started(crew, tmp_path):
    llama = stage.mock(crew, "llama", model="m")
    file = settings.node(clusters=[settings.cluster("gpu", llama.url, "m")])
    router = stage.router(crew, file)
    assert "clients need no key" in router.output()
    assert router.chat("m").status_code == 200
    public = tmp_path / "public.json"
    everywhere = {"host": "0.0.0.0", "port": 0}  # noqa: S104 - refused, that is the point
    public.write_text(json.dumps({**file, "server": everywhere}))
    refused = command("serve", "--config", str(public), env=ENVIRONMENT)
    assert refused.returncode == 64
    assert "auth: missing" in refused.stderr


def test_a_model_without_a_price_is_refused_where_a_budget_applies(crew):
    mock = stage.mock(crew, "openai", model="mystery")
    paid = settings.provider("paid", mock.url, "mystery")
    paid["models"] = ["mystery"]
    file = settings.node(providers=[paid])
    file["auth"] = {"keys": [{"id": "k", "tenant": "team", "key": "a-key-of-these-tests-1"}], "openMetrics": True}
    file["tenants"] = [{"name": "team", "budget": {"usd": 5}}]
    router = stage.router(crew, file)
    answer = router.chat("mystery", headers={"authorization": "Bearer a-key-of-these-tests-1"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unpriced"
    assert mock.books()["requests"] == 0
