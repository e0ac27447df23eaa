"""Performs the requests of flows one by one, by hand: a call may fail, be cut short, die or be parked at any of them.

*fails before*, *fails after*: that request is answered by an error, without or with its effect. *away*: that tier does not
answer for a few requests. *dies*: nothing comes after that request. *cancelled*: its caller is gone, the flow may clean up.
*parked*: nothing comes after it for a while; whoever comes later may go on with it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sessioncache import HotTierUnavailable, SessionCacheError, StoreUnavailable
from sessioncache.flow import Call, Command, Evaluate, Flow, Interrupted, Pause, Ring, Transact

FAULTS = ("fails before", "fails after", "away", "dies", "cancelled", "parked")
# No call takes more requests than this.
MOST = 150
# A tier that is away comes back after so many requests.
LONGEST_OUTAGE = 4


class CutShort(BaseException):
    """A call has no outcome: it died, was cancelled or is parked."""


@dataclass(frozen=True)
class Fault:
    """What happens at which request of a call, counted from 1."""

    kind: str
    at: int


@dataclass(eq=False)
class Journey:
    """A flow under way: what was seen of it, and the request that it waits for."""

    flow: Flow[Any]
    seen: Callable[[Any, Any], None]
    fault: Fault | None = None
    count: int = 0
    request: Any = None
    faulty: bool = False
    pauses: int = 0
    tier: tuple[type, ...] = ()
    failures: int = 0


@dataclass
class Driver:
    """Performs requests, and says what it performed.

    Attributes:
        perform: what performs a request in truth.
        waited: is told of each pause, how many there were in this call; nobody sleeps.
        store_down: whether the store is away from all.
    """

    perform: Callable[[Any], Any]
    waited: Callable[[int], None]
    store_down: Callable[[], bool]
    graveyard: list[Flow[Any]] = field(default_factory=list)

    def begin(self, flow: Flow[Any], seen: Callable[[Any, Any], None], fault: Fault | None) -> Journey:
        """A flow, at its first request."""
        return Journey(flow, seen, fault, request=None)

    def drive(self, journey: Journey) -> Any:
        """To the end, or to where it is cut short."""
        try:
            if journey.request is None:
                journey.request = next(journey.flow)
            while True:
                self._step(journey)
        except StopIteration as done:
            return done.value

    def _step(self, journey: Journey) -> None:
        request = journey.request
        journey.count += 1
        assert journey.count < MOST, f"a call never ends: {request}"
        now = journey.fault is not None and journey.count >= journey.fault.at and self._can_fail(journey, request)
        try:
            reply = self._with_fault(journey, request) if now else self._perform(journey, request)
        except SessionCacheError as error:
            journey.request = journey.flow.throw(error)
        else:
            journey.request = journey.flow.send(reply)

    @staticmethod
    def _can_fail(journey: Journey, request: Any) -> bool:
        return isinstance(request, journey.tier or (Evaluate, Command, Transact))

    def _with_fault(self, journey: Journey, request: Any) -> Any:
        kind = journey.fault.kind
        journey.faulty = True
        journey.failures += 1
        if kind != "away" or journey.failures == LONGEST_OUTAGE:
            journey.fault = None
        if kind == "parked":
            journey.count -= 1
            raise CutShort
        if kind in ("fails before", "away"):
            journey.tier = (Transact,) if isinstance(request, Transact) else (Evaluate, Command)
            raise unavailable(request)
        self._perform(journey, request)
        if kind == "fails after":
            raise unavailable(request)
        if kind == "cancelled":
            self._cancel(journey)
        self.graveyard.append(journey.flow)  # a flow that is collected would be closed, and could clean up
        raise CutShort

    def _cancel(self, journey: Journey) -> None:
        with suppress(Interrupted, StopIteration):
            request = journey.flow.throw(Interrupted())
            with suppress(SessionCacheError):
                self._perform(journey, request)

    def _perform(self, journey: Journey, request: Any) -> Any:
        if isinstance(request, Pause):
            journey.pauses += 1
            return self.waited(journey.pauses)
        if isinstance(request, Ring):
            return None
        if isinstance(request, Call):
            return request.function(*request.arguments)
        if isinstance(request, Transact) and self.store_down():
            journey.faulty = True
            raise unavailable(request)
        reply = self.perform(request)
        journey.seen(request, reply)
        return reply


def unavailable(request: Any) -> SessionCacheError:
    """What a tier that does not answer is for a flow."""
    return StoreUnavailable("planned") if isinstance(request, Transact) else HotTierUnavailable("planned")
