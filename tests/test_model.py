"""The model test: anything that may happen, in any order, against a plain model of what callers must be told."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from model_machine import Machine
from model_place import Place, commanded_scripts
from servers import RedisServer
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from sessioncache.migrate import upgrade


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    from conftest import binary_of

    server = RedisServer(binary_of("valkey9")).start()
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        upgrade(connection)
    with commanded_scripts():
        here = Place(server, engine)
        yield here
        __import__('pathlib').Path('/tmp/w-sm-count').write_text(str(here.examples))
        here.close()
    engine.dispose()
    server.close()


def machine(place: Place) -> type[Machine]:
    return type("Here", (Machine,), {"place": place})


def test_books_balance(place):
    from hypothesis import Phase
    more = {"phases": [Phase.generate]} if "NOSHRINK" in os.environ else {}
    run_state_machine_as_test(
        lambda: machine(place)(),
        settings=settings(max_examples=int(os.environ.get("MODEL", "100")), stateful_step_count=30, deadline=None,
                          suppress_health_check=list(HealthCheck), database=None, print_blob=True, **more),
    )
