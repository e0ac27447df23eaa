"""What a window costs: `context` over histories of 100, 1,000 and 10,000 messages.

    python benchmarks/window.py [--repeat N]

A history is turns of a question, two calls of tools with their results, and an answer, about 100 tokens a message. Each
case is run N times after one run that does not count. The table gives the median, the shortest and the longest time, the
median per message that was looked at, and its ratio to that of the shortest history: about 1 where time is linear.
Nothing is asserted; numbers depend on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from sessioncache.conversation.window import context

LENGTHS = (100, 1_000, 10_000)
TEXT = "What was said, in words of no importance. " * 10


def history(length: int) -> list[dict[str, Any]]:
    """So many messages."""
    rows: list[dict[str, Any]] = []
    while len(rows) < length:
        rows += turn(len(rows))
    return rows[:length]


def turn(serial: int) -> list[dict[str, Any]]:
    """A question, two calls, their results, and an answer."""
    names = [f"call_{serial}_{which}" for which in "ab"]
    function = {"name": "search", "arguments": '{"query": "' + TEXT[:200] + '"}'}
    tool_calls = [{"id": name, "type": "function", "function": function} for name in names]
    return [
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": None, "tool_calls": tool_calls},
        *({"role": "tool", "tool_call_id": name, "content": TEXT} for name in names),
        {"role": "assistant", "content": TEXT},
    ]


def cases(rows: list[dict[str, Any]]) -> dict[str, tuple[int, Callable[[], Any]]]:
    """By name: how many messages are looked at, and what is measured."""
    length = len(rows)
    return {
        "all": (length, lambda: context(rows, max_messages=length)),
        "all, token budget": (length, lambda: context(rows, max_messages=length, max_tokens=10**9)),
        "120": (min(length, 120), lambda: context(rows)),
        "120, token budget": (min(length, 120), lambda: context(rows, max_tokens=10**9)),
    }


def seconds(measured: Callable[[], Any], repeat: int) -> list[float]:
    """How long each run took, in seconds."""
    measured()
    found = []
    for _ in range(repeat):
        start = time.perf_counter()
        measured()
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=21, help="runs of each case (default: 21)")
    repeat = parser.parse_args().repeat
    table = Table("window", "messages", "median ms", "min ms", "max ms", "µs per message", "ratio", title="context()")
    first: dict[str, float] = {}
    for length in LENGTHS:
        for name, (looked_at, measured) in cases(history(length)).items():
            found = seconds(measured, repeat)
            each = statistics.median(found) / looked_at
            ratio = each / first.setdefault(name, each)
            times = (f"{1000 * value:.2f}" for value in (statistics.median(found), min(found), max(found)))
            table.add_row(name, f"{length:,}", *times, f"{1e6 * each:.2f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
