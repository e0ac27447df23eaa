"""What `sessioncache top` draws: a picture, as lines that fit. Pure.

Guarantees: never more lines than there is room for, and none that is longer than the screen is wide; what matters most
stands first, and how many rows are left out is said. Text from outside cannot make the terminal obey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.text import Text

from sessioncache.cli.output import harmless
from sessioncache.ops import PartitionBacklog
from sessioncache.picture import Picture, Process
from sessioncache.registered import RegisteredWorker

# What is not known, and what there is none of.
UNKNOWN, NONE = "?", "-"
GOOD, BAD, TITLE, FAINT, HEAD = "green", "bold red", "bold", "dim", "reverse"
# From this share of maxmemory, and from this age in seconds, it is said in red.
NEARLY_FULL, LATE = 0.9, 60.0
# On a screen of fewer lines, tables follow each other without a blank line.
AIRY = 32
# By the name of the counter, what all processes do, in columns.
SPEEDS = (
    (("appends", "appends"), ("delta reads", "reads_delta"), ("hydrations", "hydrations")),
    (("messages", "messages_appended"), ("full reads", "reads_full"), ("waits", "hydration_waits")),
    (("ops drained", "ops_drained"), ("missed reads", "reads_missed"), ("SQL loads", "sql_loads")),
)
# The heads of tables: what a row is, with how many more there are, then the columns.
PARTITIONS = "partition", 16, f"{'sessions':>9} {'ops':>11} {'bytes':>10} {'oldest':>9} {'overdue':>9} {'dead':>7}"
WORKERS = "worker", 24, f"{'state':9} {'heard':>9}  {'job':<31}"
PROCESSES = "process", 24, f"{'kind':6} {'up':>8} {'heard':>8} {'append/s':>9} {'read/s':>8} {'drain/s':>8}"
# Below how many seconds a time is told in which unit, of how many seconds; the shortest with tenths.
TENTHS, DAY = 10, 86_400
AGES = ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h"))
SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
# Per second: the least that is told, and from where on it is told without tenths.
LEAST, WHOLE = 0.1, 1000


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture to be drawn by rich: as wide as its console, and as high where it is to fit, else in full."""

    picture: Picture
    interval: float
    fits: bool

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """The lines."""
        yield from lines(self.picture, self.interval, options.max_width, options.max_height if self.fits else None)


def lines(picture: Picture, interval: float, width: int, height: int | None = None) -> list[Text]:
    """The lines of a frame: the summary, then the tables, as much of each as there is room for."""
    found = [
        _title(picture, interval),
        _redis(picture),
        _store(picture),
        *_other_trouble(picture),
        _lag(picture),
        _dead(picture),
    ]
    gap = [Text()] if height is None or height >= AIRY else []
    found += [*gap, *_speeds(picture)]
    tables = _tables(picture)
    room = None if height is None else height - len(found) - (1 + len(gap)) * len(tables)
    for table, rows in zip(tables, shares(room, [len(one.found or []) for one in tables]), strict=True):
        found += [*gap, *table.drawn(rows)]
    for line in found:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return found[:height]


def shares(room: int | None, wanted: Sequence[int]) -> list[int]:
    """How many rows each table gets, of those it has: one after the other, until there is no room."""
    if room is None:
        return list(wanted)
    given = [0] * len(wanted)
    while room > 0 and given != list(wanted):
        for n, rows in enumerate(wanted):
            if room > 0 and given[n] < rows:
                given[n], room = given[n] + 1, room - 1
    return given


def _line(label: str, *parts: str | tuple[str, str]) -> Text:
    return Text.assemble((f"{label:7}", TITLE), *parts)


def _title(picture: Picture, interval: float) -> Text:
    about = f"   prefix {harmless(picture.prefix)}   {picture.at:%Y-%m-%d %H:%M:%S} UTC   every {interval:g} s"
    return Text.assemble(("sessioncache top", TITLE), (about, FAINT))


def _state(picture: Picture, part: str) -> tuple[str, str]:
    """Whether a tier answers, and if not, what became of it."""
    trouble = picture.trouble.get(part)
    return ("up   ", GOOD) if trouble is None else (f"DOWN   {harmless(trouble)}", BAD)


def _redis(picture: Picture) -> Text:
    redis = picture.redis
    if redis is None:
        return _line("redis", _state(picture, "redis"))
    share = redis.used / redis.maxmemory if redis.maxmemory else 0.0
    bound = f" of {size(redis.maxmemory)} ({share:.0%})" if redis.maxmemory else ", no bound"
    return _line(
        "redis", _state(picture, "redis"), f"{redis.product} {redis.version}   ",
        (f"{size(redis.used)}{bound}", BAD if share >= NEARLY_FULL else ""),
        f"   {redis.clients:,} clients   {redis.commands:,} ops/s",
    )  # fmt: skip


def _store(picture: Picture) -> Text:
    store = picture.store
    if store is None:
        return _line("store", _state(picture, "store") if "store" in picture.trouble else UNKNOWN)
    return _line("store", _state(picture, "store"), f"{store.sessions:,} sessions   {store.messages:,} messages")


def _other_trouble(picture: Picture) -> list[Text]:
    return [Text(harmless(sentence), BAD) for part, sentence in picture.trouble.items() if part not in {"redis", "store"}]


def _lag(picture: Picture) -> Text:
    waiting = picture.waiting
    if waiting is None:
        return _line("lag", UNKNOWN)
    return _line(
        "lag", (age(waiting.oldest_pending), BAD if waiting.oldest_pending >= LATE else ""),
        f"   {waiting.pending:,} ops pending, {size(waiting.pending_bytes)}, of {waiting.dirty:,} sessions"
        f"   overdue {age(waiting.overdue)}",
    )  # fmt: skip


def _dead(picture: Picture) -> Text:
    waiting, rates, counters = picture.waiting, picture.rates, picture.counters
    dead = UNKNOWN if waiting is None else f"{waiting.dead:,}"
    refused, now = UNKNOWN, False
    if rates is not None and counters is not None:
        refused, now = f"{speed(rates['backpressure'])}/s ({counters['backpressure']:,})", rates["backpressure"] > 0
    return _line(
        "dead", (f"{dead} dead letter{'' if dead == '1' else 's'}", BAD if waiting and waiting.dead else ""),
        (f"   refused by backpressure {refused}", BAD if now else ""),
    )  # fmt: skip


def _speeds(picture: Picture) -> list[Text]:
    rates = picture.rates
    ratio = UNKNOWN if rates is None else NONE if picture.hit_ratio is None else f"{picture.hit_ratio:.1%}"
    cells = [[f"{label:12} {UNKNOWN if rates is None else speed(rates[name]):>9}" for label, name in row] for row in SPEEDS]
    return [_line("per second", f"   hit ratio {ratio}"), *(Text("    ".join(row)) for row in cells)]


@dataclass(frozen=True, slots=True)
class _Table:
    """A table: what a row is, how wide that column is, the heads of the others, what is in it, and how that is said."""

    name: str
    width: int
    columns: str
    found: Sequence[Any] | None
    row: Callable[[Any], str]

    def drawn(self, most: int) -> list[Text]:
        """The head, and so many rows; what is left out is counted in the head."""
        found = self.found or []
        more = f" +{len(found) - most:,}" if len(found) > most else ""
        note = f" {UNKNOWN}" if self.found is None else " none" if not found else more
        return [
            Text(f"{self.name + note:{self.width}} {self.columns}", HEAD),
            *(Text(self.row(one)) for one in found[:most]),
        ]


def _tables(picture: Picture) -> list[_Table]:
    waiting = picture.waiting
    return [
        _Table(*PARTITIONS, None if waiting is None else waiting.partitions, _partition),
        _Table(*WORKERS, picture.workers, _worker),
        _Table(*PROCESSES, picture.processes, _process),
    ]


def _partition(one: PartitionBacklog) -> str:
    return (
        f"{one.partition:<16} {one.dirty:9,} {one.pending:11,} {size(one.pending_bytes):>10} {age(one.oldest_pending):>9} "
        f"{age(one.overdue):>9} {one.dead:7,}"
    )


def _worker(one: RegisteredWorker) -> str:
    heard = UNKNOWN if one.silent is None else age(one.silent)
    return f"{_fitted(one.name, WORKERS[1])} {_fitted(one.state, 9)} {heard:>9}  {harmless(one.job) or NONE}"


def _process(one: Process) -> str:
    pid = f":{one.pid}"
    name = _fitted(_fitted(one.host, PROCESSES[1] - len(pid)).rstrip() + pid, PROCESSES[1])
    appends = reads = drained = UNKNOWN
    if one.rates is not None:
        appends, drained = speed(one.rates["appends"]), speed(one.rates["ops_drained"])
        reads = speed(sum(one.rates[kind] for kind in ("reads_delta", "reads_full", "reads_missed")))
    return f"{name} {_fitted(one.kind, 6)} {age(one.age):>8} {age(one.silent):>8} {appends:>9} {reads:>8} {drained:>8}"


def _fitted(text: str, width: int) -> str:
    """As wide as this, whatever it is."""
    fitting = Text(harmless(text))
    fitting.truncate(width, overflow="ellipsis", pad=True)
    return fitting.plain


def age(seconds: float) -> str:
    """A time, in the unit that reads best."""
    seconds = max(0.0, seconds)
    if seconds < TENTHS:
        return f"{seconds:.1f} s"
    for most, divisor, unit in AGES:
        if seconds < most:
            return f"{seconds / divisor:,.0f} {unit}"
    return f"{seconds / DAY:,.0f} d"


def size(count: int) -> str:
    """Bytes, in the unit that reads best."""
    for divisor, unit in SIZES:
        if count >= divisor:
            return f"{count / divisor:,.1f} {unit}"
    return f"{count} B"


def speed(rate: float) -> str:
    """A number per second: never rounded to nothing."""
    if 0 < rate < LEAST:
        return f"<{LEAST}"
    return f"{rate:,.1f}" if rate < WHOLE else f"{rate:,.0f}"
