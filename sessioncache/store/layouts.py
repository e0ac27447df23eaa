"""What the table ``layout`` says: the layout version, the number of partitions, and whether that is being changed.

Guarantee: of one row, which every hydration reads in the transaction in which it loads. So from the commit of `begin_move`
on, nothing is loaded by a client of any number of partitions, until `end_move` says which number it is now.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, select, update

from sessioncache.errors import LayoutMismatch, Repartitioning
from sessioncache.keys import LAYOUT_VERSION
from sessioncache.schema import layout
from sessioncache.store.statements import insert_unless_there

_RECORDED = select(layout.c.version, layout.c.partitions, layout.c.moving_to)


class Recorded(NamedTuple):
    """A layout as it stands in the database; ``moving_to``: the number of partitions it is being changed to, or None."""

    version: int
    partitions: int
    moving_to: int | None


def recorded(connection: Connection) -> Recorded | None:
    """What is recorded; None where nothing is."""
    found = connection.execute(_RECORDED).first()
    return Recorded(*found) if found else None


def confirm(connection: Connection, partitions: int) -> None:
    """Nothing, if the database is laid out for this, or for nothing yet.

    Raises:
        Repartitioning: the number of partitions is being changed.
        LayoutMismatch: it is laid out otherwise.
    """
    found = recorded(connection)
    if found is None:
        return
    if found.moving_to is not None:
        raise moving(found.moving_to)
    compare_layout("The database", (found.version, found.partitions), (LAYOUT_VERSION, partitions))


def moving(to: int) -> Repartitioning:
    """The error while the number of partitions is being changed."""
    return Repartitioning(
        f"The number of partitions is being changed to {to}: try again soon, with SESSIONCACHE_PARTITIONS={to}; if no "
        f"`sessioncache repartition {to}` is running, it was interrupted: run it again."
    )


def compare_layout(where: str, found: tuple[int, int], configured: tuple[int, int]) -> None:
    """Nothing, if both are the same; else `LayoutMismatch`. Each is (layout version, partitions)."""
    if found[0] != configured[0]:
        raise LayoutMismatch(f"{where} has layout {found[0]}, this package writes layout {configured[0]}; use one version.")
    if found[1] != configured[1]:
        raise LayoutMismatch(
            f"{where} is laid out for {found[1]} partitions, not {configured[1]}; "
            f"set SESSIONCACHE_PARTITIONS={found[1]}, or use another prefix and database."
        )


def begin_move(connection: Connection, partitions: int, moving_to: int | None, to: int) -> None:
    """Record that the number of partitions is being changed, if it stands as it was found; or nothing was recorded.

    Raises:
        Repartitioning: another process has changed it, or begun to.
    """
    connection.execute(insert_unless_there(connection, layout).values(version=LAYOUT_VERSION, partitions=partitions))
    found = connection.execute(select(layout.c.partitions, layout.c.moving_to).with_for_update()).one()
    if tuple(found) != (partitions, moving_to):
        raise Repartitioning("Another process changes the number of partitions meanwhile; see `sessioncache doctor`.")
    connection.execute(update(layout).values(moving_to=to))


def end_move(connection: Connection, to: int) -> None:
    """Record that it has been changed.

    Raises:
        Repartitioning: it is being changed to another number by now.
    """
    found = connection.execute(select(layout.c.moving_to).with_for_update()).scalar()
    if found != to:
        raise Repartitioning(f"Another process changes the number of partitions, not to {to}; see `sessioncache doctor`.")
    connection.execute(update(layout).values(partitions=to, moving_to=None))
