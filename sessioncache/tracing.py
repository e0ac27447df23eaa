"""Spans of OpenTelemetry around flows (extra ``tracing``), where the setting ``tracing`` is on.

Guarantees: a span is a child of the one that its caller, task or thread, was in when the flow began, and of no other, also
where callers are cancelled: it is the current span only while the flow itself computes, never while its requests are
performed, so that no task is left in the span of another. Attributes name the session by id and partition, never by its
key, which may be a person's address; they hold no message, no owner, no title, and of an error its type alone.

Raises:
    ConfigurationError: at import, where the package opentelemetry-api is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

from sessioncache.errors import ConfigurationError
from sessioncache.flow import Flow, Interrupted, Request

try:
    from opentelemetry import context, trace
except ImportError as error:
    raise ConfigurationError(
        "Traces need the package opentelemetry-api; run pip install 'sessioncache[tracing]', or leave tracing off."
    ) from error

T = TypeVar("T")

_PREFIX = "sessioncache."


class Spans:
    """Puts flows into spans of the tracer provider that is set for the process."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("sessioncache", version("sessioncache"))

    def around(
        self,
        name: str,
        flow: Flow[T],
        known: Mapping[str, str | int],
        found: Callable[[T], Mapping[str, str | int]],
    ) -> Flow[T]:
        """A flow in a span, with what is known before and what is found.

        The outcome is ``ok``, ``interrupted``, or the type of the error that is raised.
        """
        span = self._tracer.start_span(_PREFIX + name, attributes={_PREFIX + key: value for key, value in known.items()})
        outcome = "ok"
        try:
            result = yield from _within(trace.set_span_in_context(span), flow)
            span.set_attributes({_PREFIX + key: value for key, value in found(result).items()})
        except (Interrupted, GeneratorExit):
            outcome = "interrupted"
            raise
        except BaseException as error:
            outcome = type(error).__name__
            span.set_status(trace.StatusCode.ERROR, outcome)
            raise
        finally:
            span.set_attribute(_PREFIX + "outcome", outcome)
            span.end()
        return result


def _within(inside: context.Context, flow: Flow[T]) -> Flow[T]:
    """A flow that computes in a context, and leaves it at every request."""
    step: Callable[[], Request] = partial(next, flow)
    while True:
        token = context.attach(inside)
        try:
            request = step()
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            context.detach(token)
        try:
            reply: Any = yield request
        except BaseException as error:  # noqa: BLE001 - the flow's own affair
            step = partial(flow.throw, error)
        else:
            step = partial(flow.send, reply)
