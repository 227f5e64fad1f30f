"""GeoDNS without Route 53: gdnsd's configuration and zone, from the same file as everything else.

The nearest region that is ready is answered; nearness by coordinates and a city database, or by a list of networks.
"""

from __future__ import annotations

from dataclasses import dataclass

from .checks import Json, RefusedError
from .overlays import domain


@dataclass(frozen=True)
class Place:
    """Where gdnsd runs and what it decides by."""

    # Address and port it listens on.
    listen: str
    # Its own folders for what it writes.
    state: str
    # The program that asks a region whether it is ready: curl, by its full path.
    probe: str
    # A city-level GeoIP2 database, or a file of networks with the regions near them.
    database: str | None
    nets: str | None
    # Names of this and the other name servers of the zone.
    servers: list[str]


def files(platform: Json, outputs: Json, env: str, place: Place) -> dict[str, str]:
    """The files of gdnsd's folder by name."""
    if bool(place.database) == bool(place.nets):
        message = "name a city database (--database) or a file of networks (--nets), one of both"
        raise RefusedError(message)
    if not place.servers:
        message = "name the zone's name servers (--server), at least one"
        raise RefusedError(message)
    # gdnsd leads only to names outside of the zone it decides in: hence a small zone of its own, to which the
    # domain's zone, wherever that is, points.
    return {
        "config": _config(platform, env, place),
        f"zones/geo.{domain(platform, env)}": _zone(platform, place),
        "parent.zone": _parent(platform, outputs, env, place),
    }


def _config(platform: Json, env: str, place: Place) -> str:
    health, regions = platform["health"], platform["regions"]
    coordinates = "\n".join(
        f"          {key} => [ {region['latitude']}, {region['longitude']} ]," for key, region in regions.items()
    )
    nearest = (
        f'        geoip2_db => "{place.database}",\n        auto_dc_coords => {{\n{coordinates}\n        }},'
        if place.database
        else f'        nets => "{place.nets}",'
    )
    answers = "\n".join(
        f"          {key} => {health['host']}.{domain(platform, env, key)}.," for key in platform["regions"]
    )
    wait = max(2, health["intervalSeconds"] // 3)
    asked = f"https://%%ITEM%%:{health['port']}{health['path']}"
    return f"""# Made by `infra/platformctl geodns` from infra/common/platform.json: change that, not this.
options => {{
  listen => [ "{place.listen}" ],
  run_dir => "{place.state}/run",
  state_dir => "{place.state}/lib",
}},
service_types => {{
  ready => {{
    plugin => extmon,
    # -f: any status but a success is a failure; the name is the region's own, so its certificate is checked too.
    cmd => [ "{place.probe}", "-fsS", "-o", "/dev/null", "--max-time", "{wait}", "{asked}" ],
    interval => {health["intervalSeconds"]},
    timeout => {wait + 1},
    up_thresh => {health["failures"]},
    ok_thresh => 1,
    down_thresh => {health["failures"]},
  }},
}},
plugins => {{
  geoip => {{
    maps => {{
      regions => {{
        datacenters => [ {", ".join(regions)} ],
{nearest}
      }},
    }},
    resources => {{
      {health["host"]} => {{
        map => regions,
        service_types => ready,
        dcmap => {{
{answers}
        }},
      }},
    }},
  }},
}},
"""


def _zone(platform: Json, place: Place) -> str:
    health, contact = platform["health"], platform["contact"].replace("@", ".")
    ttl = health["ttlSeconds"]
    lines = [
        "; Made by `infra/platformctl geodns`: change infra/common/platform.json, not this.",
        f"@ {ttl} SOA {place.servers[0]}. {contact}. ( 1 7200 1800 259200 {ttl} )",
        *(f"@ 3600 NS {server}." for server in place.servers),
        f"{health['host']} {ttl} DYNC geoip!{health['host']}",
    ]
    return "\n".join(lines) + "\n"


def _parent(platform: Json, outputs: Json, env: str, place: Place) -> str:
    health, zone = platform["health"], domain(platform, env)
    lines = [
        f"; Records for the zone {zone}, wherever that is served.",
        f"{health['host']}.{zone}. 3600 IN CNAME {health['host']}.geo.{zone}.",
        *(f"geo.{zone}. 3600 IN NS {server}." for server in place.servers),
    ]
    for key in platform["regions"]:
        servers = outputs.get(key, {}).get("nameServers", [])
        lines += [f"{domain(platform, env, key)}. 3600 IN NS {server.rstrip('.')}." for server in servers]
    return "\n".join(lines) + "\n"
