"""A single link between two regions is cut; the third has a way to both."""

from __future__ import annotations

from lab.fleet import MODEL
from lab.load import ANSWERED
from lab.stage import Scenario, Stage

ONLY_AT_GCP = "gcp-only-model"


def give_gcp_a_model(settings: dict, _index: int) -> None:
    """One of gcp's clusters has a name of its own for its model: who asks for it can be served nowhere else."""
    for cluster in settings["clusters"]:
        if cluster["name"] == "gcp-cluster-0":
            cluster["models"] = [{"name": MODEL, "aliases": [ONLY_AT_GCP]}]


def run(stage: Stage) -> None:
    """Cuts aws from gcp; asks aws for what only gcp has."""
    stage.far()
    stage.load(rate=8)
    stage.rest(3)
    aws, gcp, azure = stage.routers[:3]
    stage.note("aws and gcp lose each other")
    stage.ground.both(aws.place, gcp.place, down=True)
    stage.seconds_until(lambda: aws.health("gcp-cluster-0") == "unhealthy", 20, "aws finds gcp's cluster unreachable")
    seen = [sorted(router.live()) == sorted(r.name for r in stage.routers) for router in stage.routers]
    stage.figure("routers that see all others alive through the third", sum(seen), "", "= all", all(seen))
    relayed = stage.load(rate=4, first=0, model=ONLY_AT_GCP, max_tokens=24, stream_share=1)
    stage.rest(8)
    relayed.end()
    attempts = [request.last for request in relayed.requests]
    stage.at_most(
        "requests for what only gcp has that were not answered", sum(a.outcome != ANSWERED for a in attempts), 0
    )
    via = {attempt.via for attempt in attempts}
    stage.figure("relayed through", ", ".join(map(str, via)), "", azure.name, via == {azure.name})
    stage.ground.both(aws.place, gcp.place, down=False)
    stage.note("healed")
    stage.seconds_until(lambda: aws.health("gcp-cluster-0") == "healthy", 20, "aws reaches gcp's cluster itself")
    stage.rest(2)


SCENARIO = Scenario(
    what="The link between two of three regions is cut; the third reaches both.",
    expected="Gossip goes through the third region, nobody is taken for dead, and a backend behind the cut is used "
    "through the third region's router.",
    bound="no router taken for dead, every request for what only the far region has answered, via the third",
    run=run,
    wan=True,
    quick=True,
    shape={"change": give_gcp_a_model},
)
