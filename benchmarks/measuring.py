"""Measuring side by side: several ways of the same thing, in turns, on the same servers and data, in one run.

A *way* is called once a round and gives one figure (seconds of one operation, operations a second, bytes). Rounds are
interleaved, each begins with the next way, and the first one does not count, so that whatever the machine does meanwhile
falls on all of them. What is reported is ratios: of each round, the median of them, and the middle half of them as spread.

A *bar* is a ratio that ours may have at most, or must have at least, to another way. Timings never fail anything.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from inspect import isawaitable
from statistics import median, quantiles

OURS = "sessioncache"

Way = Callable[[], float | Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Bar:
    """What ours shall be, as a ratio to another way (``against``), or, against nothing, as it is.

    Attributes:
        most, least: the bounds; None for none.
    """

    against: str = ""
    most: float | None = None
    least: float | None = None

    def met(self, value: float) -> bool:
        """Whether a ratio, or a value, is within the bounds."""
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)

    def __str__(self) -> str:
        bound = f"≤ {self.most:.3g}" if self.most is not None else f"≥ {self.least:g}"
        return f"{bound} times {self.against}" if self.against else bound


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratios of the rounds: their median, and the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(slots=True)
class Figure:
    """What was measured of one thing.

    Attributes:
        measure: what it is.
        unit: of the figures, such as ``µs`` or ``messages/s``.
        rounds: the figures of each way, by name, round by round.
        bars: what ours shall be.
        note: what a reader has to know to believe it.
    """

    measure: str
    unit: str
    rounds: dict[str, list[float]]
    bars: list[Bar] = field(default_factory=list)
    note: str = ""

    def ratio(self, against: str) -> Ratio:
        """Ours to another way's, round by round; against nothing, ours as it is."""
        ours = self.rounds[OURS]
        return spread([a / b for a, b in zip(ours, self.rounds[against], strict=True)] if against else ours)

    def verdicts(self) -> list[tuple[Bar, Ratio, bool]]:
        """Each bar, what was measured, and whether it is met; bars against what is not installed are left out."""
        bars = [bar for bar in self.bars if not bar.against or bar.against in self.rounds]
        return [(bar, found, bar.met(found.median)) for bar in bars for found in [self.ratio(bar.against)]]


def spread(values: list[float]) -> Ratio:
    """Median and quartiles; of a single value, itself."""
    if len(values) == 1:
        return Ratio(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Ratio(median(values), low, high)


async def rounds(ways: Mapping[str, Way], count: int) -> dict[str, list[float]]:
    """The figures of ``count`` interleaved rounds, after one that does not count; awaits the ways that want that."""
    names, found = list(ways), {name: list[float]() for name in ways}
    gc.collect()
    gc.freeze()  # what is there is not looked at again for each way of each round
    for number in range(count + 1):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            gc.collect()
            gc.disable()
            try:
                outcome = ways[name]()
                value = await outcome if isawaitable(outcome) else outcome
            finally:
                gc.enable()
            if number:
                found[name].append(value)
    gc.unfreeze()
    return found


def in_rounds(ways: Mapping[str, Way], count: int) -> dict[str, list[float]]:
    """The same, where no way awaits anything."""
    return asyncio.run(rounds(ways, count))
