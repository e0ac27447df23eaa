"""All benchmarks, or some: tables, and with ``--json`` what was measured, round by round.

    PYTHONPATH=tests python benchmarks/bench.py [--quick] [--json FILE] [NAME ...]

Each name is a module of this directory with a function ``figures``. What is measured, and what each figure means, the
module says. Nothing is asserted; numbers depend on the machine, ratios hardly.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from measuring import OURS, Figure, spread
from place import FULL, QUICK, Place, Scale, place
from rich.console import Console
from rich.table import Table

ALL = ("appending", "reading", "hydrating", "draining", "standing", "growing")

Figures = Callable[[Place, Scale], list[Figure]]


def table(figures: Sequence[Figure], machine: str) -> Table:
    """What was measured: ours and the other ways, and the ratios that have a bar."""
    shown = Table("measure", "unit", "sessioncache", "others", "ratio (middle half)", "bar", title=machine)
    for figure in figures:
        others = [f"{name} {spread(values).median:,.4g}" for name, values in figure.rounds.items() if name != OURS]
        verdicts = figure.verdicts()
        shown.add_row(
            figure.measure, figure.unit, f"{spread(figure.rounds[OURS]).median:,.4g}", "\n".join(others),
            "\n".join(f"{found}{'' if met else ' not met'}" for _, found, met in verdicts),
            "\n".join(str(bar) for bar, _, _ in verdicts),
        )  # fmt: skip
    return shown


def measured(parts: Sequence[Figures], scale: Scale) -> tuple[str, list[Figure]]:
    """The machine, and the figures of some benchmarks, one after the other over the same servers."""
    with place() as where:
        return where.machine, [figure for part in parts for figure in part(where, scale)]


def alone(part: Figures) -> None:
    """Run one benchmark: as it is started by itself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    machine, found = measured([part], QUICK if asked.quick else FULL)
    Console(width=160).print(table(found, machine))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*ALL, []], metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, less data: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write there what was measured")
    asked = parser.parse_args()
    parts = [import_module(name).figures for name in asked.names or ALL]
    machine, found = measured(parts, QUICK if asked.quick else FULL)
    Console(width=160).print(table(found, machine))
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine, "figures": [asdict(one) for one in found]}, indent=1))


if __name__ == "__main__":
    main()
