"""A real name server moves clients off a region that is lost, and back (`chaos/scenarios/geodns_region_lost.py`)."""

from __future__ import annotations

from pathlib import Path

from chaos_stage import held


def test_clients_are_led_to_their_own_region_off_it_when_it_dies_and_back(tmp_path: Path) -> None:
    result = held("geodns_region_lost", tmp_path)
    led = {figure["name"]: figure["value"] for figure in result["figures"]}
    at_home = "clients-0 to aws-us-west-2, clients-1 to gcp-us-central1, clients-2 to azure-eastus"
    assert led["before: who is led where"] == at_home
    assert led["during: who is led where"] == at_home.replace(
        "clients-0 to aws-us-west-2", "clients-0 to gcp-us-central1"
    )
    assert led["after: who is led where"] == at_home
