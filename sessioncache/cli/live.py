"""`sessioncache tail`: the newest messages of a session, and, followed, the next ones as they come.

Following is polling: each poll is two round trips to Redis, and carries what is new. It goes on when the session under the
key is reset, switched or deleted, and when a tier is away for a while: then it says so on standard error, and goes on where
it was. Seqs rise under a key from session to session, so what was printed is told by one number.
"""

from __future__ import annotations

import io
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import click

from sessioncache import finding, inspection
from sessioncache.cli.context import connected, end_at_sigterm
from sessioncache.cli.output import harmless, with_json
from sessioncache.cli.status import PASSING
from sessioncache.cli.transcript import write_message
from sessioncache.connect import BlockingConnections
from sessioncache.errors import SessionNotFound
from sessioncache.flow import Flow
from sessioncache.lifecycle import moving
from sessioncache.records import Messages, Record

POLL_SECONDS = 0.5
# What is asked for at first at each poll; more, where more came.
PAGE = 100
# Sessions that a key may go through between two polls.
PASSED = 5


@click.command()
@click.argument("session_key", metavar="KEY")
@click.option("-n", "--limit", type=click.IntRange(0, 10_000), default=10, show_default=True, help="The newest n.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--owner", help="Only if it is this owner's; another's is as if it were not there.")
@with_json
def tail(session_key: str, limit: int, owner: str | None, *, follow: bool, as_json: bool) -> None:
    """Print the newest messages of a key's current session; with -f, also those that come.

    With -f it follows the key, also to another session that becomes current, and waits while Redis or SQL is away. It is
    no access and lengthens no time to live, but brings a session that is not hot into Redis, as any reader does.
    """
    end_at_sigterm()
    with connected() as connections:
        shown = _Tail(connections, session_key, owner, partial(write_message, as_json=as_json))
        shown.begin(limit)
        while follow:
            _wait(POLL_SECONDS)
            shown.go_on()


@dataclass(slots=True)
class _Tail:
    """What was printed of a key so far: messages up to a seq, of a session (``""`` while there is none)."""

    connections: BlockingConnections
    session_key: str
    owner: str | None
    write: Callable[[str, Record], None]
    session_id: str = ""
    last: int = 0
    trouble: bool = False

    def begin(self, limit: int) -> None:
        """Print the newest messages."""
        flow = inspection.newest(self.connections.state, self.session_key, self.owner, max(limit, 1))
        info, found = self.connections.run(flow)
        self.session_id, self.last = info.session_id, info.version or 0  # what came before has a lower seq, or this one
        self._print(self.session_id, list(found[len(found) - limit :]) if limit else [])

    def go_on(self) -> None:
        """Print what came since."""
        try:
            self._follow()
        except PASSING as error:
            if not self.trouble:
                _say(f"{error} Trying again.")
            self.trouble = True
        else:
            if self.trouble:
                _say("Going on.")
            self.trouble = False

    def _follow(self) -> None:
        try:
            session_id, new = self._newer(self._newest)
        except SessionNotFound:
            session_id, new = "", []
        if session_id != self.session_id:
            self._print_passed(session_id)
            _say(f"Session {session_id} is current now." if session_id else "The key has no session now.")
            self.session_id = session_id
        self._print(session_id, new)

    def _print_passed(self, current: str) -> None:
        """Print what came in sessions that are not current any more."""
        run, state = self.connections.run, self.connections.state
        for info in reversed(run(finding.past(state, self.session_key, self.owner, PASSED))):
            if info.session_id != current:
                with suppress(SessionNotFound):
                    self._print(*self._newer(partial(self._stored, info.session_id)))

    def _newest(self, limit: int) -> tuple[str, Messages]:
        flow = inspection.newest(self.connections.state, self.session_key, self.owner, limit)
        info, found = self.connections.run(flow)
        return info.session_id, found

    def _stored(self, session_id: str, limit: int) -> tuple[str, Messages]:
        flow: Flow[Messages] = moving.read(self.connections.state, session_id, self.owner, limit, None)
        return session_id, self.connections.run(flow)

    def _newer(self, read: Callable[[int], tuple[str, Messages]]) -> tuple[str, list[Record]]:
        """The session that is read, and its messages that were not printed yet."""
        limit = PAGE
        while True:
            session_id, found = read(limit)
            new = self._unseen(found)
            if len(new) < len(found) or len(found) < limit:
                return session_id, new
            limit *= 4

    def _unseen(self, found: Messages) -> list[Record]:
        new: list[Record] = []
        for at in range(len(found) - 1, -1, -1):
            record = found[at]
            if record.seq <= self.last:
                break
            new.append(record)
        return new[::-1]

    def _print(self, session_id: str, records: list[Record]) -> None:
        for record in records:
            self.write(session_id, record)
            self.last = max(self.last, record.seq)


def _say(sentence: str) -> None:
    click.echo(f"sessioncache: {harmless(sentence)}", err=True)


def _wait(seconds: float) -> None:
    """Wait, but not for somebody who closed the other end of standard output.

    Raises:
        BrokenPipeError: somebody did.
    """
    try:
        output = sys.stdout.fileno()
    except (io.UnsupportedOperation, ValueError):  # no file
        time.sleep(seconds)
        return
    closed = select.poll()
    closed.register(output, 0)
    if closed.poll(seconds * 1000):
        raise BrokenPipeError
