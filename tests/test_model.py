"""The model test: anything that may happen, in any order, against a plain model of what callers must be told.

`model_world` is the model, `model_client` says of each call what it comes to, `model_oracle` watches and judges,
`model_driver` performs requests one by one, `model_machine` is what may happen. After every step nothing acknowledged is
missing (I2) and no hot copy is wrong (I5); each call is told what the model says (I3, I4, I6); at the end the store has
what the model has, and nothing else is left.

A failure prints its steps and a blob for `@reproduce_failure`. SESSIONCACHE_MODEL_EXAMPLES=20000 with ``-k longer`` is the
soak.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import binary_of
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from model_machine import Machine
from model_place import Place, commanded_scripts
from servers import RedisServer
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from sessioncache.migrate import upgrade

# Examples of the long test, other ones each time; without, a thousand that are the same in every run.
LONG = int(os.environ.get("SESSIONCACHE_MODEL_EXAMPLES", "0"))


@contextmanager
def place_of(hot: str, *, real: bool = False) -> Iterator[Place]:
    """A Redis of the test's own, and SQLite; where it is ``real``, a restart is one of the process."""
    options = {"appendonly": "yes", "appendfsync": "always"} if real else {}
    server = RedisServer(binary_of(hot), **options).start()
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        upgrade(connection)
    with commanded_scripts(run=not real):
        here = Place(server, engine, real=real)
        yield here
        here.close()
    engine.dispose()
    server.close()


def balance(here: Place, examples: int, start: int | None) -> None:
    """Make examples: those that follow from ``start``, or others each time."""
    made = settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,  # the machine may be busy
        # Steps that are not possible yet are passed over, and a step takes as long as its servers do.
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
        database=None,
        print_blob=True,
    )
    machine = type("Here", (Machine,), {"place": here})
    run_state_machine_as_test(machine if start is None else seed(start)(machine), settings=made)
    assert here.examples >= examples * 0.9
    assert here.accepted > examples  # the machine does something


@pytest.mark.timeout(600)  # a failure takes its time to be made small
def test_the_books_balance():
    """A few examples, for every run."""
    with place_of("valkey9") as here:
        balance(here, 80, 1)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("hot", "start"), [("valkey9", 3), ("redis7", 4)])
def test_the_books_balance_for_longer(hot, start):
    """Two thousand examples, half of them on each kind of Redis."""
    with place_of(hot) as here:
        balance(here, LONG or 1000, None if LONG else start)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_books_balance_with_true_restarts():
    """Redis is killed and started again on its append-only file; with its own run, not one that the test commands."""
    with place_of("valkey9", real=True) as here:
        balance(here, 40, 2)
