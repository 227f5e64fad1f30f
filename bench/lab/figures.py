"""All samples of a run, and what they come to: medians, spreads, and ratios within a round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from .load import Sample


@dataclass
class Summary:
    """Several measurements of one thing."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """The widest difference as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def summed(values: list[float]) -> Summary:
    """The summary of `values`."""
    return Summary(statistics.median(values), min(values), max(values))


@dataclass
class Figures:
    """Samples by section, contestant and round."""

    rounds: int
    seconds: int
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)

    def add(self, section: str, name: str, sample: Sample) -> None:
        """One more round of a contestant."""
        self.samples.setdefault(section, {}).setdefault(name, []).append(sample)

    def told(self, section: str, name: str) -> str:
        """The last sample in one line."""
        sample = self.samples[section][name][-1]
        return f"{section} {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in sample.items())

    def values(self, section: str, name: str, key: str) -> list[float]:
        """One figure of a contestant, a value for each round; empty where it was not measured."""
        return [sample[key] for sample in self.samples.get(section, {}).get(name, []) if key in sample]

    def summary(self, section: str, name: str, key: str) -> Summary | None:
        """One figure of a contestant over the rounds."""
        values = self.values(section, name, key)
        return summed(values) if values else None

    def ratio(self, section: str, name: str, beside: str, key: str) -> Summary | None:
        """One figure of a contestant as a share of another's in the same round."""
        pairs = list(zip(self.values(section, name, key), self.values(section, beside, key), strict=False))
        ratios = [mine / theirs for mine, theirs in pairs if theirs]
        return summed(ratios) if ratios else None

    def difference(self, section: str, name: str, beside: str, key: str) -> Summary | None:
        """What a contestant adds to another's figure in the same round."""
        pairs = list(zip(self.values(section, name, key), self.values(section, beside, key), strict=False))
        return summed([mine - theirs for mine, theirs in pairs]) if pairs else None
