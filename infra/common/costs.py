"""What each layout costs a month, from the prices of the platform file; exact decimals, never floats."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from .checks import Json, RefusedError, stale_prices

HOURS = Decimal(730)
BEGIN = "<!-- costs: written by `infra/platformctl costs --write docs/DEPLOY.md` -->"
END = "<!-- end of costs -->"

LAYOUTS = {
    "CPU only": "one spot machine a region answers, no GPU ever",
    "GPU spot": "one spot GPU a region is always up, beside the CPU machine",
    "GPU scale-to-zero": "the GPU is up for its share of the month only",
    "paused": "`pause-costs`: every pool at nothing, clusters and addresses kept",
}


def usd(price: Json) -> Decimal:
    """A price as a number that adds up."""
    return Decimal(str(price["usd"]))


def costs(platform: Json, env: str) -> dict[str, dict[str, Decimal]]:
    """USD a month by region and layout; `total` sums the regions and the shared DNS."""
    work = {name: Decimal(str(value)) for name, value in platform["workload"].items() if name != "source"}
    settings = platform["environments"][env]
    result = {key: Bill(region, settings, work).layouts() for key, region in platform["regions"].items()}
    geo = platform["geo"]["prices"]
    shared = usd(geo["zoneMonth"]) + usd(geo["healthCheckMonth"]) * len(platform["regions"])
    shared += usd(geo["queriesMillion"]) * work["dnsMillionQueries"]
    result["shared DNS"] = dict.fromkeys(LAYOUTS, shared)
    result["total"] = {layout: sum((row[layout] for row in result.values()), Decimal(0)) for layout in LAYOUTS}
    return result


@dataclass(frozen=True)
class Bill:
    """One region of one environment under the assumed work."""

    region: Json
    settings: Json
    work: dict[str, Decimal]

    def price(self, name: str) -> Decimal:
        """A price of the region; nothing where its cloud has none of the kind."""
        return usd(self.region["prices"][name]) if name in self.region["prices"] else Decimal(0)

    def nodes(self, pool: str, count: int | Decimal, hours: Decimal, kind: str) -> Decimal:
        """Machines of a pool and their disks, which come and go with them."""
        machine = self.region["machines"][pool]
        disk = machine["diskGib"] * self.price("diskGibMonth") / HOURS
        return count * hours * (usd(machine[kind]) + disk)

    def standing(self) -> Decimal:
        """What is paid for while no machine runs: control plane, NAT, load balancers, addresses, stores."""
        cloud, available = self.region["cloud"], self.settings["highAvailability"]
        gateways = len(self.region["zones"]) if cloud == "aws" and self.settings["natPerZone"] else 1
        outbound = gateways if cloud == "aws" else 1 + int(available)
        routers = self.settings["gossipAddresses"]
        # AKS without an uptime promise is free; Google bills NAT by the machine behind it.
        control = Decimal(0) if cloud == "azure" and not available else self.price("controlPlaneHour")
        nat = Decimal(0) if cloud == "gcp" else gateways * self.price("natHour")
        hourly = control + nat + (outbound + routers) * self.price("publicAddressHour")
        hourly += (routers + 1) * self.price("loadBalancerHour")
        stores = (self.work["registryGib"] + self.work["modelGib"]) * self.price("registryGibMonth")
        stores += self.price("registryMonth") * int(available)
        return hourly * HOURS + stores + self.price("dnsZoneMonth") + self.price("keyMonth")

    def serving(self) -> Decimal:
        """Machines that are always up, and the traffic."""
        system, cpu = self.settings["pools"]["system"]["min"], self.work["cpuNodes"]
        machines = self.nodes("system", system, HOURS, "onDemandHour") + self.nodes("cpu", cpu, HOURS, "spotHour")
        if self.region["cloud"] == "gcp":
            machines += (system + cpu) * self.price("natHour") * HOURS
        traffic = [("natGb", "natGb"), ("egressGb", "egressGb"), ("logGib", "logGib")]
        return machines + sum((self.work[amount] * self.price(name) for amount, name in traffic), Decimal(0))

    def layouts(self) -> dict[str, Decimal]:
        """USD a month by layout."""
        base = self.standing() + self.serving()
        gpus = self.work["gpuNodes"]
        return {
            "CPU only": base,
            "GPU spot": base + self.nodes("gpu", gpus, HOURS, "spotHour"),
            "GPU scale-to-zero": base + self.nodes("gpu", gpus, self.work["gpuHoursOnDemand"], "spotHour"),
            "paused": self.standing(),
        }


def whole(amount: Decimal) -> str:
    """Dollars without cents: more would be pretended."""
    return f"{amount.quantize(Decimal(1), ROUND_HALF_UP):,}"


def cost_table(platform: Json) -> str:
    """The table of docs/DEPLOY.md."""
    work = platform["workload"]
    lines = [BEGIN, ""]
    for env in platform["environments"]:
        lines += [f"**{env}**, USD a month:", "", f"| | {' | '.join(LAYOUTS)} |", f"|---|{'---:|' * len(LAYOUTS)}"]
        for key, row in costs(platform, env).items():
            name = f"**{key}**" if key == "total" else key
            lines.append(f"| {name} | {' | '.join(whole(row[layout]) for layout in LAYOUTS)} |")
        lines.append("")
    lines += [f"- {layout}: {meaning}." for layout, meaning in LAYOUTS.items()]
    lines += [
        "",
        f"Counted per region: {work['cpuNodes']} CPU and {work['gpuNodes']} GPU machine at spot prices, the smallest",
        f"system pool on demand, {work['gpuHoursOnDemand']} GPU hours when scaling to zero,",
        f"{work['natGb']} GB through NAT, {work['egressGb']} GB to clients, {work['logGib']} GiB of logs,",
        f"{work['registryGib']} GiB of images and {work['modelGib']} GiB of models.",
        "Not counted: taxes, support, calls to providers.",
        "",
    ]
    if old := stale_prices(platform, newest(platform)):
        lines += [
            f"{len(old)} of these prices are a year older than the newest: `infra/platformctl check` lists them.",
            "",
        ]
    return "\n".join([*lines, END])


def newest(platform: Json) -> datetime.date:
    """The day the newest price was read: the table must not change by itself as days pass."""
    dates = re.findall(r'"date": "(\d{4}-\d{2}-\d{2})"', json.dumps(platform))
    return max(datetime.date.fromisoformat(date) for date in dates)


def with_table(text: str, table: str) -> str:
    """A page with its cost table replaced."""
    start, end = text.find(BEGIN), text.find(END)
    if start < 0 or end < start:
        message = f"the page has no place for the table: put the lines `{BEGIN}` and `{END}` into it"
        raise RefusedError(message)
    return text[:start] + table + text[end + len(END) :]
