"""What callers may give: numbers and times, and how a wrong value is shown in a sentence."""

from __future__ import annotations

from sessioncache.errors import InvalidInput

MAX_NUMBER = 2**53
# The last millisecond of the year 9999, after which Python knows no time.
LAST_MILLISECOND = 253_402_300_799_999
# A year: nobody waits longer.
MAX_SECONDS = 31_536_000


def shown(value: object) -> str:
    """A value for a sentence: plain, short, and on one line."""
    if type(value) is int and value.bit_length() > 64:  # noqa: PLR2004 - Python refuses to write very long ones
        return "an integer beyond 64 bit"
    return ascii(value)[:60] if type(value) in {bool, int, float, str, type(None)} else type(value).__name__


def number(value: object, what: str, *, least: int = 0) -> int:
    """A count or seq.

    Raises:
        InvalidInput: no integer, too small, or beyond 2**53.
    """
    if type(value) is not int or not least <= value <= MAX_NUMBER:
        raise InvalidInput(f"{what} is an integer from {least} to 2**53, not {shown(value)}.")
    return value


def whole(value: object, what: str) -> int:
    """A whole number, of either sign.

    Raises:
        InvalidInput: no integer, or beyond 2**53.
    """
    if type(value) is not int or abs(value) > MAX_NUMBER:
        raise InvalidInput(f"{what} is an integer up to 2**53, not {shown(value)}.")
    return value


def seconds(value: object, what: str) -> float:
    """A time to wait.

    Raises:
        InvalidInput: no number from 0 to a year.
    """
    if type(value) not in (int, float) or not 0 <= value <= MAX_SECONDS:  # type: ignore[operator]  # a number
        raise InvalidInput(f"{what} is a number of seconds from 0 to a year, not {shown(value)}.")
    return float(value)  # type: ignore[arg-type]  # a number
