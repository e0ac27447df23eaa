"""What an examination of the tiers found: one sentence, how bad it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

OK, INFO, WARNING, ERROR = "ok", "info", "warning", "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an examination found.

    Attributes:
        check: what was looked at: ``redis``, ``scripts``, ``keys``, ``backlog``, ``functions``, ``database``, ``layout``,
            ``clocks``, ``queue`` or ``workers``.
        severity: ``ok``; ``info``: it may be meant so; ``warning``: something may be lost or late one day; ``error``: it is
            lost, late or refused now, or at the next occasion.
        found: a sentence.
        advice: what to do, in a sentence; ``""`` where there is nothing to be done.
    """

    check: str
    severity: str
    found: str
    advice: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, OK, found)


def info(check: str, found: str, advice: str = "") -> Finding:
    """Worth knowing."""
    return Finding(check, INFO, found, advice)


def warning(check: str, found: str, advice: str) -> Finding:
    """To be looked into."""
    return Finding(check, WARNING, found, advice)


def error(check: str, found: str, advice: str) -> Finding:
    """To be mended."""
    return Finding(check, ERROR, found, advice)
