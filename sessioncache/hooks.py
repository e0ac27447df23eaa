"""Hooks: functions of the application, named in the settings as ``package.module:function``.

A name is looked up when it is first needed. The functions run where the event happens: in an app server for a session
that is deleted there, in a worker for one that housekeeping deletes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

from sessioncache.errors import ConfigurationError


@lru_cache(maxsize=16)
def resolved(name: str) -> Callable[..., Any]:
    """The function of this name.

    Raises:
        ConfigurationError: there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"The hook {name!r} cannot be found; write it as package.module:function.") from error
    if not callable(found):
        raise ConfigurationError(f"The hook {name!r} is no function.")
    return found  # type: ignore[no-any-return]  # callable
