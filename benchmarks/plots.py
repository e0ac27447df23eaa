"""Plots, and a table, of what `bench` measured, as SVG and PNG, from the file that its ``--json`` wrote.

    python benchmarks/plots.py FILE DIRECTORY

- ``bars``: for each bar, how far what was measured is from it, as a ratio; the middle half of the rounds as a line.
- ``ways``: each thing that was measured in several ways, with the median of each way.
- ``lengths``: what a second read costs, by the length of the history.

Colours tell ours from the others, and are not needed to read them: each mark is named.

The table of ``benchmarks.md`` in the directory is written anew, too.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from measuring import OURS, Bar, Figure

OUR_COLOUR, OTHER_COLOUR, BAR_COLOUR = "#0b6e4f", "#8d99ae", "#c1121f"
COLUMNS = 3
_LENGTH = re.compile(r"(.*), history of ([\d,]+)(.*)")


def load(path: Path) -> tuple[str, list[Figure]]:
    """The machine and the figures of a file that `bench` wrote."""
    read = json.loads(path.read_text())
    return read["machine"], [Figure(**{**one, "bars": [Bar(**bar) for bar in one["bars"]]}) for one in read["figures"]]


def bars(figures: Sequence[Figure], machine: str) -> Any:
    """How far each thing is from its bar: below 1 it is met."""
    found = [(figure, *verdict) for figure in figures for verdict in figure.verdicts()][::-1]
    drawn, axes = plt.subplots(figsize=(11, 1.2 + 0.3 * len(found)), layout="constrained")
    for place, (_, bar, ratio, met) in enumerate(found):
        ends = [_share(bar, one) for one in (ratio.low, ratio.median, ratio.high)]
        axes.plot([min(ends), max(ends)], [place, place], color=OUR_COLOUR if met else BAR_COLOUR, linewidth=3)
        axes.plot(ends[1], place, "o" if met else "X", color=OUR_COLOUR if met else BAR_COLOUR)
    axes.axvline(1, color=BAR_COLOUR, linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(found)), [f"{figure.measure}: {bar}" for figure, bar, _, _ in found], fontsize=8)
    axes.set_xlabel("share of the bar (left of 1: met)")
    axes.set_title(machine, fontsize=9)
    return drawn


def _share(bar: Bar, value: float) -> float:
    if bar.most is not None:
        return max(value, 1e-9) / bar.most
    return (bar.least or 0) / max(value, 1e-9)


def ways(figures: Sequence[Figure], machine: str) -> Any:
    """The median of each way."""
    several = [figure for figure in figures if len(figure.rounds) > 1]
    rows = -(-len(several) // COLUMNS)
    drawn, grid = plt.subplots(rows, COLUMNS, figsize=(15, 1.9 * rows), squeeze=False, layout="constrained")
    for axes, figure in zip(grid.flat, several, strict=False):
        names = list(figure.rounds)[::-1]
        colours = [OUR_COLOUR if name == OURS else OTHER_COLOUR for name in names]
        axes.barh(names, [median(figure.rounds[name]) for name in names], color=colours)
        axes.set_title(f"{figure.measure} ({figure.unit})", fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in list(grid.flat)[len(several) :]:
        axes.set_axis_off()
    drawn.suptitle(machine, fontsize=9)
    return drawn


def lengths(figures: Sequence[Figure], machine: str) -> Any:
    """What a second read costs, by the length of the history: a line for each way of each call."""
    lines: dict[str, dict[int, float]] = defaultdict(dict)
    for figure in figures:
        named = _LENGTH.fullmatch(figure.measure)
        if named is None or figure.unit != "µs" or any(way.startswith("of ") for way in figure.rounds):
            continue
        said = named[3].removeprefix(", ")
        for way, rounds in figure.rounds.items():
            name = f"{way}, {said}" if way == OURS else f"{way}, {said.partition(':')[0]}"
            lines[name][int(named[2].replace(",", ""))] = median(rounds)
    drawn, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for number, (name, points) in enumerate(lines.items()):
        ours, colour = name.startswith(OURS), mpl.colormaps["tab20"](number)
        axes.plot(list(points), list(points.values()), "o-" if ours else "x--", label=name, color=colour)
    axes.set(xscale="log", yscale="log", xlabel="messages in the history", ylabel="µs")
    axes.set_title(f"A read after two new messages, on a server that read before\n{machine}", fontsize=9)
    if lines:
        axes.legend(fontsize=7)
    return drawn


def table(figures: Sequence[Figure], machine: str) -> str:
    """What was measured, as Markdown."""
    lines = [f"{machine}.", "", "| measure | sessioncache | others | ratio | bar |", "|---|---|---|---|---|"]
    for figure in figures:
        others = "; ".join(f"{name} {median(values):,.4g}" for name, values in figure.rounds.items() if name != OURS)
        verdicts = figure.verdicts()
        ratios = "; ".join(f"{found}{'' if met else ' *not met*'}" for _, found, met in verdicts)
        bounds = "; ".join(str(bar) for bar, _, _ in verdicts)
        ours = f"{median(figure.rounds[OURS]):,.4g} {figure.unit}"
        lines.append(f"| {figure.measure} | {ours} | {others} | {ratios} | {bounds} |")
    return "\n".join(lines)


def write_table(page: Path, text: str) -> None:
    """Put the table where the page says."""
    begin, end = "<!-- measured -->\n", "<!-- /measured -->\n"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")


def main() -> None:
    """Draw all of them."""
    source, directory = Path(sys.argv[1]), Path(sys.argv[2])
    mpl.use("svg")
    plt.rcParams["svg.hashsalt"] = "sessioncache"
    plt.rcParams["svg.fonttype"] = "none"  # text stays text
    machine, figures = load(source)
    write_table(directory / "benchmarks.md", table(figures, machine))
    for draw in (bars, ways, lengths):
        drawn = draw(figures, machine)
        for kind, told in (("svg", {"Date": None}), ("png", {})):
            drawn.savefig(directory / f"benchmarks-{draw.__name__}.{kind}", dpi=110, metadata=told)
        plt.close(drawn)


if __name__ == "__main__":
    main()
