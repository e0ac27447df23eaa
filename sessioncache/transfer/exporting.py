"""Exporting: the store as JSON lines, in bounded memory, as of one moment.

The first line says what it is; then comes each session, by id, and after it its messages, by seq::

    {"type":"sessioncache","format":1}
    {"type":"session","session_id":…,"session_key":…,"version":…, columns of the store's table `sessions` …}
    {"type":"message","session_id":…,"seq":…,"id":…,"created_at":…,"data":{the message}}

Guarantees: what was acknowledged before is in it, because it is drained first; the same store gives the same bytes,
whichever database it is. ``version`` is that of the key, null for a session that is not current.
Deleted sessions are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection

from sessioncache import flushing
from sessioncache.errors import SessionNotFound
from sessioncache.flow import Flow, Transact
from sessioncache.message import to_json
from sessioncache.state import State
from sessioncache.store.outgoing import COLUMNS, JSON_COLUMNS, messages_of, outgoing
from sessioncache.transfer.found import FORMAT, Damage


@dataclass(slots=True)
class Exported:
    """What an export wrote."""

    sessions: int = 0
    messages: int = 0


def write_out(
    state: State,
    write: Callable[[bytes], Any],
    damaged: Callable[[Damage], None],
    *,
    owner: str | None = None,
    session_id: str | None = None,
) -> Flow[Exported]:
    """Write out all sessions, those of one owner, or one; ``write`` is given line by line.

    What cannot be read in the database is told to ``damaged``, and left out.

    Raises:
        SessionNotFound: there is no session of this id (of this owner).
        StoreUnavailable: the database is away; what was written is not whole.
    """
    for key, error in (yield from flushing.settle(state)).items():
        damaged(Damage(key, 0, f"what is pending under this key is not in the export: {error}"))
    work = partial(_write_all, write=write, damaged=damaged, owner=owner, session_id=session_id)
    done: Exported = yield Transact(work, writes=False)
    if session_id is not None and not done.sessions:
        raise SessionNotFound(f"There is no session {session_id}; `past` and `list` give the ids there are.")
    return done


def _write_all(
    connection: Connection,
    write: Callable[[bytes], Any],
    damaged: Callable[[Damage], None],
    owner: str | None,
    session_id: str | None,
) -> Exported:
    done = Exported()
    write(_line({"type": "sessioncache", "format": FORMAT}))
    for row in outgoing(connection, owner, session_id):
        write(_line(_session(row, damaged)))
        done.sessions += 1
        for message in messages_of(connection, row.session_id):
            named = {"type": "message", "session_id": row.session_id, "seq": message.seq, "id": message.message_id}
            try:
                line = _line({**named, "created_at": iso(message.created_at), "data": _object(message.body)})
            except ValueError:
                damaged(Damage(row.session_id, message.seq, "the message cannot be read from the database"))
            else:
                write(line)
                done.messages += 1
    return done


def _session(row: Any, damaged: Callable[[Damage], None]) -> dict[str, Any]:
    columns = {name: _plain(getattr(row, name)) for name in COLUMNS}
    for name in JSON_COLUMNS:
        try:
            columns[name] = None if columns[name] in {None, "null"} else _object(columns[name])
            _line(columns)
        except ValueError:
            columns[name] = None
            damaged(Damage(row.session_id, 0, f"the {name} cannot be read from the database"))
    return {"type": "session", **columns, "version": row.version}


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if type(found) is not dict:
        raise ValueError("no JSON object")
    return found


def _plain(value: Any) -> Any:
    return iso(value) if isinstance(value, datetime) else value


def iso(moment: datetime) -> str:
    """A time as it is written: UTC, to the millisecond."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(value: dict[str, Any]) -> bytes:
    return to_json(value).encode() + b"\n"
