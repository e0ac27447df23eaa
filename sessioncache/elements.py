r"""Elements of a ``history`` list as they came from Redis: whether they are what is written there, and what they hold.

An element is a plain header line, readable in redis-cli, then opaque msgpack::

    <seq> <milliseconds since 1970, by Redis's clock> <message id>\n<msgpack of the message>

A message that the store has but cannot give back stands as a *hole*: the header, then `HOLE`. It keeps its place and
counts, so that positions and paging stay right. Anything else is *garbage*. Whatever bytes there are, the answer is a
value, and nothing in them is run. Questions are asked of whole lists, because of each element alone they would cost more
than decoding it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import itemgetter, lt
from typing import Any

from sessioncache.foreign import unpack_all

# What stands in place of a message that the store cannot give back; no msgpack begins with it.
HOLE = b"\xc1"

# What an element holds; None for a hole.
Data = dict[str, Any] | None

_HEADERS = re.compile(r"^(\d{1,16}) \d{1,15} [^\n]+$", re.ASCII | re.MULTILINE)
_CHUNK = 100
_END, _behind = repeat(b"\n"), itemgetter(2)


def decoded(elements: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """The messages in these elements, but for holes; None where there is garbage. Headers are not looked at."""
    try:
        return _objects(_packed(elements))
    except ValueError:
        packed = [one for one in _packed(elements) if one != HOLE]
    try:
        return _objects(packed) if len(packed) < len(elements) else None
    except ValueError:
        return None


def is_sound(elements: Sequence[bytes]) -> bool:
    """Whether there is no garbage in these elements. Headers are not looked at; little is decoded at a time."""
    return all(decoded(elements[at : at + _CHUNK]) is not None for at in range(0, len(elements), _CHUNK))


def _packed(elements: Sequence[bytes]) -> Iterator[bytes]:
    """What stands behind each header; not all at once, which would take as much memory again."""
    return map(_behind, map(bytes.partition, elements, _END))


def _objects(packed: Iterable[bytes]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = unpack_all(packed)
    if set(map(type, found)) <= {dict}:
        return found
    raise ValueError("no JSON object")


def readable(elements: Sequence[bytes]) -> list[Data]:
    """What each of these elements holds; None for a hole, and for garbage."""
    found = decoded(elements)
    if found is not None and len(found) == len(elements):
        return [*found]
    return [next(iter(decoded([one]) or ()), None) for one in elements]


def in_order(elements: Sequence[bytes], after: int, through: int) -> bool:
    """Whether their headers are as they are written here, with seqs that rise, above one and up to another."""
    heads = [one[0] for one in map(bytes.partition, elements, _END)]
    try:
        headers = _HEADERS.findall(b"\n".join(heads).decode())
    except UnicodeDecodeError:
        return False
    seqs = [after, *map(int, headers)]
    return len(headers) == len(heads) and all(map(lt, seqs, seqs[1:])) and (not headers or seqs[-1] <= through)


def seq_of(element: bytes) -> int:
    """The seq of an element.

    Raises:
        ValueError: it is garbage.
    """
    return int(element.split(b" ", 1)[0])
