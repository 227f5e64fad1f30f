"""Three regions in network namespaces: far apart, cut, rotated and killed while clients stream (`chaos/`).

Where namespaces cannot be made (not root, no `/dev/net/tun`) the scenarios that need no wide area network run on
loopback addresses; the others are reported as skipped with the reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos_stage import complaints, held, play


@pytest.mark.parametrize("scenario", ["partition_three_way", "certificates_rotated"])
def test_regions_far_apart_keep_their_promises(scenario: str, tmp_path: Path) -> None:
    result = held(scenario, tmp_path)
    assert result["ground"] == "namespaces"
    assert result["answered"] > 0


def test_a_router_killed_far_away_costs_clients_that_retry_once_nothing(tmp_path: Path) -> None:
    result = held("far_router_killed", tmp_path)
    assert result["requests"] == result["answered"]


def test_on_loopback_a_router_is_killed_all_the_same_and_a_partition_is_said_not_to_be_run(tmp_path: Path) -> None:
    result = play("router_killed", tmp_path, "--ground", "loopback", "--quick")
    assert not isinstance(result, str)
    assert result["ground"] == "loopback"
    assert complaints(result) == []
    assert result["answered"] > 100
    refused = play("partition_link", tmp_path, "--ground", "loopback")
    assert refused == "partition_link: NOT RUN, needs network namespaces (asked for)"
