"""Spans around appends, reads, hydrations and drains: their parents, what they say, and what they never say."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sessioncache import AsyncSessionCache, HotTierUnavailable, InvalidMessage, SessionMoved
from sessioncache.flow import Transact
from sessioncache.state import State

KEY = "agent:main:telegram:dm:49151"


class Seen:
    """The spans that ended, and a tracer of the application's own."""

    def __init__(self) -> None:
        self.exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.get_tracer = provider.get_tracer
        self.tracer = provider.get_tracer("application")

    def spans(self, name: str) -> list:
        return [one for one in self.exporter.get_finished_spans() if one.name == name]

    def parents(self, name: str) -> list[str]:
        """The names of the parents of spans of this name; ``""`` for a span without one."""
        names = {one.context.span_id: one.name for one in self.exporter.get_finished_spans()}
        return [names[one.parent.span_id] if one.parent else "" for one in self.spans(name)]


@pytest.fixture
def seen(monkeypatch) -> Seen:
    found = Seen()
    monkeypatch.setattr("opentelemetry.trace.get_tracer", found.get_tracer)
    return found


def attributes(span) -> dict[str, object]:
    assert span.end_time is not None
    return {name.removeprefix("sessioncache."): value for name, value in span.attributes.items()}


def test_what_spans_say(some_stack, seen):
    """One for each of the four, of the caller's span or of the one that needed it; counts and versions, no key, no text."""
    with some_stack.cache(tracing=True) as cache:
        session = cache.open(KEY, owner="alice", title="private")
        seen.exporter.clear()
        with seen.tracer.start_as_current_span("turn"):
            records = session.append([{"content": "hidden"}, {"content": "too"}], id=["telegram-1", "telegram-2"])
            cache.evict(KEY)
            assert len(session.history()) == 2
        partition = cache._state.keyspace.of(KEY).partition
        (append,), (read,) = seen.spans("sessioncache.append"), seen.spans("sessioncache.read")
        (hydrate,), (drain,) = seen.spans("sessioncache.hydrate"), seen.spans("sessioncache.drain")
        about = {"session_id": session.session_id, "partition": partition, "messages": 2, "outcome": "ok"}
        assert attributes(append) == {**about, "version": records[-1].seq}
        assert attributes(read) == about
        assert attributes(hydrate) == {"partition": partition, "published": True, "outcome": "ok"}
        assert attributes(drain) == {"keys": 1, "ops": 3, "removed": 3, "outcome": "ok"}
        assert seen.parents("sessioncache.append") == seen.parents("sessioncache.read") == ["turn"]
        assert seen.parents("sessioncache.hydrate") == ["sessioncache.read"]
        assert seen.parents("sessioncache.drain") == ["sessioncache.hydrate"]
        everything = "".join(one.to_json() for one in seen.exporter.get_finished_spans())
        assert not [word for word in ("hidden", "49151", "alice", "private", "telegram") if word in everything]


def test_without_a_span_of_the_caller(one_stack, seen):
    """A read begins a trace of its own."""
    with one_stack.cache(tracing=True) as cache:
        cache.open(KEY).history()
        assert seen.parents("sessioncache.read") == [""]
        assert not trace.get_current_span().is_recording()


@pytest.mark.parametrize("error", [InvalidMessage, SessionMoved, HotTierUnavailable])
def test_of_errors_the_type_alone(one_stack, seen, monkeypatch, error):
    """Their sentences may hold keys."""

    def away(_request):
        raise HotTierUnavailable(KEY)

    with one_stack.cache(tracing=True, timeout=2.0, redis_timeout=2.0) as cache:
        session = cache.open(KEY)
        if error is SessionMoved:
            cache.get(KEY).reset()
        if error is HotTierUnavailable:
            monkeypatch.setattr(cache._connections.driver, "perform", away)
        with pytest.raises(error):
            session.append({"content": b"hidden"} if error is InvalidMessage else {"content": "a"})
        (span,) = seen.spans("sessioncache.append")
        assert attributes(span)["outcome"] == error.__name__
        assert (span.status.status_code, span.status.description) == (trace.StatusCode.ERROR, error.__name__)
        assert span.events == ()
        assert "49151" not in span.to_json()


def check_family(seen: Seen, count: int) -> None:
    """Each caller's append, read, hydration and drain are its own."""
    spans = {one.context.span_id: one for one in seen.exporter.get_finished_spans()}
    assert len(seen.spans("sessioncache.hydrate")) == len(seen.spans("sessioncache.drain")) == count
    for one in seen.spans("sessioncache.read") + seen.spans("sessioncache.append"):
        assert attributes(one)["session_id"] == spans[one.parent.span_id].attributes["mine"]
    for one in seen.spans("sessioncache.hydrate"):
        assert spans[one.parent.span_id].name == "sessioncache.read"
        assert spans[one.parent.span_id].attributes["sessioncache.partition"] == attributes(one)["partition"]
    assert {one.context.trace_id for one in spans.values()} == {
        one.context.trace_id for one in spans.values() if one.parent is None
    }
    assert sum(one.parent is None for one in spans.values()) == count


def test_tasks_at_once(one_stack, seen):
    """Twenty tasks of one event loop, each in a span of its own, never in another's."""

    async def work() -> None:
        async with AsyncSessionCache(settings=one_stack.settings(tracing=True)) as cache:
            sessions = [await cache.open(f"key {n}") for n in range(20)]
            seen.exporter.clear()

            async def turn(session) -> None:
                with seen.tracer.start_as_current_span("turn", attributes={"mine": session.session_id}) as mine:
                    await session.append({"content": "a"})
                    await cache.evict(session.key)
                    assert len(await session.history()) == 1
                    assert trace.get_current_span() is mine

            await asyncio.gather(*map(turn, sessions))

    asyncio.run(work())
    check_family(seen, 20)


def test_threads_at_once(one_stack, seen):
    """The same with threads."""
    with one_stack.cache(tracing=True) as cache:
        sessions = [cache.open(f"key {n}") for n in range(10)]
        seen.exporter.clear()

        def turn(session) -> None:
            with seen.tracer.start_as_current_span("turn", attributes={"mine": session.session_id}):
                session.append({"content": "a"})
                cache.evict(session.key)
                session.history()

        threads = [threading.Thread(target=turn, args=(session,)) for session in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    check_family(seen, 10)


def test_a_cancelled_task_is_left_in_its_own_span(one_stack, seen, monkeypatch, caplog):
    """What was begun for it ends, as interrupted; it goes on in the span it was in, and nothing complains."""

    async def work() -> None:
        async with AsyncSessionCache(settings=one_stack.settings(tracing=True)) as cache:
            session = await cache.open(KEY)
            await cache.evict(KEY)
            perform, reached = cache._connections.driver.perform, asyncio.Event()

            async def hang(request):
                if isinstance(request, Transact):
                    reached.set()
                    await asyncio.sleep(60)
                return await perform(request)

            monkeypatch.setattr(cache._connections.driver, "perform", hang)
            with seen.tracer.start_as_current_span("turn") as mine:
                reader = asyncio.ensure_future(caught(session, mine))
                await reached.wait()
                reader.cancel()
                assert await reader
                assert trace.get_current_span() is mine

    async def caught(session, mine) -> bool:
        try:
            await session.history()
        except asyncio.CancelledError:
            return trace.get_current_span() is mine
        return False

    with caplog.at_level(logging.DEBUG, "opentelemetry"):
        asyncio.run(work())
    assert [attributes(one)["outcome"] for one in seen.spans("sessioncache.read")] == ["interrupted"]
    assert "interrupted" in [attributes(one)["outcome"] for one in seen.spans("sessioncache.hydrate")]
    assert caplog.text == ""


def test_off_it_is_nothing(one_stack, seen):
    """No spans, and the flow itself, not one around it."""
    with one_stack.cache() as cache:
        cache.open(KEY).append({"content": "a"})
    assert seen.exporter.get_finished_spans() == ()
    flow = iter(())
    assert State.of(one_stack.settings()).traced("x", flow, {}, dict) is flow


def test_without_the_package():
    """The sentence names the extra; who asks for no traces needs none."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None; import sessioncache\n"
        "sessioncache.SessionCache.from_url('redis://h:1/0', 'sqlite://')\n"
        "try: sessioncache.SessionCache.from_url('redis://h:1/0', 'sqlite://', tracing=True)\n"
        "except sessioncache.ConfigurationError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'sessioncache[tracing]'" in told
