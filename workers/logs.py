"""Logs of workers: lines of text, or one JSON object on each line, for whatever gathers logs.

Guarantee: what the library knows about a line stands in fields of the names of `FIELDS`, the same as in metrics, spans and
`--json`; none of them is a message's content or a secret.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

# What lines may carry besides time, level, logger and message.
FIELDS = ("session_key", "session_id", "version", "lane", "ops", "reason", "worker")

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class TextLines(logging.Formatter):
    """A log record as text, `FIELDS` behind its message as ``name=value``; none breaks the line or passes for another."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as in the base class
        """The line, before the trace of an exception."""
        return " ".join(
            [super().formatMessage(record), *(f"{name}={_word(value)}" for name, value in _fields(record).items())]
        )


class JsonLines(logging.Formatter):
    """A log record as JSON: ``time``, ``level``, ``logger``, ``message``, ``trace`` of an exception, and `FIELDS`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}


def _word(value: object) -> str:
    """A value as one word; in quotes, as JSON, where it would not be one or would be obeyed by a terminal."""
    text = str(value)
    plain = text.isprintable() and text and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


def set_up(level: str, form: str) -> None:
    """Write logs of this level and above to standard error, as ``text`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level, handlers=[handler])
